"""Telling what happens: chapters, progress bars, small tables, measured numbers.

A story is told on a Rich console. On a terminal bars move; into a file or a pipe it is
plain text with one line for each thing that happened. At most 100 columns are used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.rule import Rule
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

WIDTH = 100
_INDENT = 2
_BARS = " ▁▂▃▄▅▆▇█"

Number = int | float
Cell = str | Number | None


@dataclass
class Chapter:
    """One part of the story and how long it took."""

    number: int
    title: str
    seconds: float = 0.0


@dataclass
class Bar:
    """A progress bar that the teller moves."""

    advance: Callable[[float], None]
    """Moves it on by so many units."""
    say: Callable[[str], None]
    """Changes the words beside it."""


@dataclass
class Story:
    """Tells a story on a console.

    Args:
        console: where to; by default standard output.
        clock: seconds that only grow.
    """

    console: Console = field(default_factory=Console)
    clock: Callable[[], float] = time.perf_counter
    chapters: list[Chapter] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._began = self.clock()

    @property
    def width(self) -> int:
        """Columns in use."""
        return min(WIDTH, self.console.width)

    @property
    def seconds(self) -> float:
        """Since the story began."""
        return self.clock() - self._began

    # ── parts ────────────────────────────────────────────────────────────────────────

    def opening(self, title: str, *lines: str) -> None:
        """The first words, in a frame."""
        text = Text("\n").join(Text.from_markup(line) for line in lines)
        self.console.print(
            Panel(text, title=f"[bold]{escape(title)}[/]", width=self.width, padding=(1, 2))
        )

    @contextmanager
    def chapter(self, title: str, why: str = "") -> Iterator[Chapter]:
        """A numbered part; what is told inside belongs to it, its time is measured.

        Nothing is said at the end if an error ends it: the error has the word.
        """
        chapter = Chapter(len(self.chapters) + 1, title)
        self.chapters.append(chapter)
        self.console.print()
        heading = Text.assemble((f" {chapter.number} ", "bold reverse"), " ", (title, "bold"))
        self.console.print(heading)
        if why:
            self.text(f"[dim]{escape(why)}[/]")
        began = self.clock()
        yield chapter
        chapter.seconds = self.clock() - began
        self.console.print(
            Rule(seconds_told(chapter.seconds), align="right", style="dim"), width=self.width
        )

    def text(self, markup: str) -> None:
        """A paragraph, wrapped and indented; Rich markup is understood."""
        self._indented(Text.from_markup(markup))

    def done(self, what: str, **measured: Cell) -> None:
        """Something that has been done, with what was measured: ``rows=1200`` and the like."""
        told = Text.assemble(("✓ ", "green"), Text.from_markup(what))
        self._indented(_with_measures(told, measured))

    def refused(self, what: str, because: str) -> None:
        """Something that was tried and refused, as it should be, in the words of the refusal."""
        told = Text.assemble(
            ("✗ ", "red"), Text.from_markup(what), "  ", (f"refused: {because}", "red")
        )
        self._indented(told)

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, title: str = ""
    ) -> None:
        """A small table; numbers stand to the right and are written for people."""
        shown = [tuple(row) for row in rows]
        table = Table(
            box=box.SIMPLE_HEAD, title=title or None, title_justify="left", title_style="bold",
            pad_edge=False,
        )  # fmt: skip
        for i, name in enumerate(columns):
            numeric = any(_is_number(row[i]) for row in shown)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in shown:
            table.add_row(*(escape(told(cell)) for cell in row))
        self._indented(table)

    def tree(self, tree: Tree) -> None:
        """A tree, indented."""
        self._indented(tree)

    def spark(self, what: str, values: Sequence[float | None], *, low: float, high: float) -> None:
        """A line of little bars, one for each value between ``low`` and ``high``; · is none."""
        self._indented(Text.assemble(f"{what}  ", (sparkline(values, low=low, high=high), "cyan")))

    @contextmanager
    def progress(self, what: str, total: float | None) -> Iterator[Bar]:
        """A bar while something goes on; drawn on a terminal alone, and gone when it is over.

        Args:
            what: beside the bar.
            total: units to go, or None if nobody knows.
        """
        if not self.console.is_terminal:
            yield Bar(advance=lambda _: None, say=lambda _: None)
            return
        bars = Progress(
            TextColumn(" " * (_INDENT - 1) + "{task.description}"),
            BarColumn(bar_width=32),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
        )
        with bars:
            task = bars.add_task(escape(what), total=total)
            yield Bar(
                advance=lambda units: bars.advance(task, units),
                say=lambda words: bars.update(task, description=escape(words)),
            )

    def closing(self, *lines: str, commands: Sequence[tuple[str, str]] = ()) -> None:
        """The last words: where the time went, and what to try next.

        Args:
            commands: (command, what it shows).
        """
        times = "   ".join(f"{one.number} {seconds_told(one.seconds)}" for one in self.chapters)
        text = Text("\n").join(Text.from_markup(line) for line in lines)
        widest = max((len(command) for command, _shows in commands), default=0)
        for command, shows in commands:
            text.append("\n  ")
            text.append(command.ljust(widest), style="bold cyan")
            text.append(f"   {shows}", style="dim")
        text.append(f"\n\nChapters: {times}", style="dim")
        title = f"[bold]Told in {seconds_told(self.seconds)}[/]"
        self.console.print()
        self.console.print(Panel(text, title=title, width=self.width, padding=(1, 2)))

    def _indented(self, what: Text | Table | Tree) -> None:
        self.console.print(Padding(what, (0, 0, 0, _INDENT)), width=self.width)


def told(value: Cell) -> str:
    """A value as people write it: 1,234,567; 0.764; 12.3; yes; – for none."""
    if value is None or _not_a_number(value):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.{_decimals(value)}f}"
    return f"{value:,}" if isinstance(value, int) else value


def _decimals(value: float) -> int:
    if abs(value) >= 1000:
        return 0
    return 1 if abs(value) >= 10 else 3


def seconds_told(seconds: float) -> str:
    """A duration: 850 µs, 12 ms, 3.4 s, 1 min 43 s."""
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = timedelta(seconds=round(seconds))
    return f"{whole.seconds // 60 + whole.days * 1440} min {whole.seconds % 60} s"


def bytes_told(n: float) -> str:
    """A size: 512 B, 1.4 MB; a step is 1,000."""
    for unit in ("B", "kB", "MB"):
        if n < 999.5:
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"


def sparkline(values: Sequence[float | None], *, low: float, high: float) -> str:
    """Eight heights from ``low`` to ``high``; · stands for no value."""
    height = max(high - low, 1e-12)
    return "".join(
        "·"
        if value is None or math.isnan(value)
        else _BARS[1 + round(min(max((value - low) / height, 0.0), 1.0) * (len(_BARS) - 2))]
        for value in values
    )


def _with_measures(text: Text, measured: dict[str, Cell]) -> Text:
    for name, value in measured.items():
        text.append("  ")
        text.append(told(value), style="bold")
        text.append(f" {name.replace('_', ' ')}", style="dim")
    return text


def _not_a_number(value: Cell) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _is_number(value: Cell) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
