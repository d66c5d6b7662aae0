"""The story: readable without a terminal, never wider than 100 columns, times measured."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from falaj.demo.story import Story, bytes_told, seconds_told, sparkline, told


class Clock:
    """Seconds that a test moves on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def teller(width: int = 100, *, terminal: bool = False) -> tuple[Story, Clock]:
    clock = Clock()
    console = Console(file=io.StringIO(), width=width, force_terminal=terminal)
    return Story(console, clock), clock


def text_of(story: Story) -> str:
    assert isinstance(story.console.file, io.StringIO)
    return story.console.file.getvalue()


def tell(story: Story, clock: Clock) -> None:
    story.opening("Falaj", "336,776 flights left New York in 2013.", "[bold]Which[/] were late?")
    with story.chapter("The data comes in", "Files, contracts, encrypted tables."):
        clock.now += 1.25
        story.done("Flights loaded", rows=336_776, quarantined=0)
        story.table(["table", "rows", "kept"], [["flights", 336_776, True], ["x", None, False]])
        with story.progress("loading", 10) as bar:
            bar.advance(4)
            bar.say("still loading")
            bar.advance(6)
    with story.chapter("Trust"):
        story.refused("A tampered bundle", "its digest is another one")
        story.spark("AUC by week", [0.7, None, 0.8], low=0.7, high=0.8)
        story.text("word " * 60)
    story.closing(
        "All of it is in [bold]./demo[/].", commands=[("falaj audit verify", "the proof")]
    )


@pytest.mark.parametrize("width", [60, 80, 100, 200])
@pytest.mark.parametrize("terminal", [False, True])
def test_no_line_is_wider_than_the_console_or_a_hundred_columns(width: int, terminal: bool) -> None:
    story, clock = teller(width, terminal=terminal)
    tell(story, clock)
    plain = Console(file=io.StringIO(), width=500)
    lines = text_of(story).splitlines()
    widths = [plain.measure(Text.from_ansi(line)).maximum for line in lines]
    assert max(widths) <= min(width, 100)


def test_a_story_into_a_file_is_plain_text_without_moving_bars() -> None:
    story, clock = teller()
    tell(story, clock)
    text = text_of(story)
    assert "\x1b" not in text
    assert "loading" not in text
    for words in (" 1  The data comes in", "✓ Flights loaded  336,776 rows  0 quarantined",
                  " 2  Trust", "✗ A tampered bundle  refused: its digest is another one",
                  "AUC by week  ▁·█", "falaj audit verify   the proof"):  # fmt: skip
        assert words in text


def test_a_terminal_sees_the_bar() -> None:
    story, clock = teller(terminal=True)
    tell(story, clock)
    assert "still loading" in text_of(story)


def test_chapters_and_the_whole_are_timed() -> None:
    story, clock = teller()
    tell(story, clock)
    assert [(one.number, one.seconds) for one in story.chapters] == [(1, 1.25), (2, 0.0)]
    assert "Told in 1.2 s" in text_of(story)
    assert story.seconds == 1.25


def test_a_chapter_that_fails_lets_the_error_speak() -> None:
    story, _ = teller()
    with pytest.raises(ValueError, match="no"), story.chapter("Broken"):
        raise ValueError("no")
    assert text_of(story).splitlines()[-1].strip() == "1  Broken"


def test_names_with_brackets_are_shown_as_they_are() -> None:
    story, _ = teller()
    story.table(["a"], [["list[int]"]])
    with story.chapter("One", why="of type [bold]"):
        pass
    assert "list[int]" in text_of(story)
    assert "of type [bold]" in text_of(story)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "–"), (float("nan"), "–"), ("word", "word"), (True, "yes"), (False, "no"),
        (336_776, "336,776"), (12345.6, "12,346"), (12.34, "12.3"), (0.76412, "0.764"),
        (-0.5, "-0.500"),
    ],
)  # fmt: skip
def test_values_are_written_for_people(value: object, words: str) -> None:
    assert told(value) == words  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.00085, "850 µs"), (0.012, "12 ms"), (0.9996, "1.0 s"), (3.44, "3.4 s"),
        (59.96, "1 min 0 s"), (103.2, "1 min 43 s"), (90_000, "1500 min 0 s"),
    ],
)  # fmt: skip
def test_durations_are_written_for_people(seconds: float, words: str) -> None:
    assert seconds_told(seconds) == words


@pytest.mark.parametrize(
    ("n", "words"),
    [
        (512, "512 B"),
        (1_400, "1.4 kB"),
        (999_999, "1.0 MB"),
        (31_053_850, "31.1 MB"),
        (4e9, "4.0 GB"),
    ],
)
def test_sizes_are_written_for_people(n: float, words: str) -> None:
    assert bytes_told(n) == words


@given(st.lists(st.none() | st.floats(allow_infinity=True)), st.floats(-10, 10), st.floats(-10, 10))
def test_a_sparkline_has_one_sign_for_each_value(
    values: list[float | None], low: float, high: float
) -> None:
    drawn = sparkline(values, low=low, high=high)
    assert len(drawn) == len(values)
    assert set(drawn) <= set("·▁▂▃▄▅▆▇█")
