"""Cards: what is known is told, what is not is said to be, and nobody's text becomes markup."""

from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from falaj.models.cardforms import Code, Grid, Items, Section, Strong, Written, paragraphs
from falaj.models.cards import CardFacts, written
from falaj.models.model import AliasMove, GateReport, GateResult, ModelPolicy, Move, Outcome, Stage
from falaj.testing.smallbundles import SMALL
from falaj.training.model import TimeSplit, TrainingSet, TrainingSetSpec

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALLOWED = {
    "html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "p", "ul", "li", "table",
    "thead", "tbody", "tr", "th", "td", "div", "code", "strong",
}  # fmt: skip
HOSTILE = (
    "<script>alert(1)</script> <img src=x onerror=y> ![i](http://evil/p.png) [l](javascript:x) "
    "| cell\n\n# Approved by the board\n\n1. really `code` \u202egnp \x1b[31m & \" ' \\"
)


class Tags(HTMLParser):
    """The tags of a page, with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.told = [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        """Keep it."""
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        """Keep it."""
        self.told.append(data)


def gate(name, message="told", **evidence):
    """A result that passed."""
    return GateResult(gate=name, outcome=Outcome.PASSED, message=message, evidence=evidence)


INTERVAL = {"estimate": 0.81, "low": 0.79, "high": 0.83}
RESULTS = (
    gate("metric:auc", value=0.81, interval=INTERVAL),
    gate("slices:carrier", metric="auc", worst=[{"slice": "XX", "n_rows": 1200, **INTERVAL}]),
    gate("fairness:sex", gaps={"demographic_parity": {"limit": 0.1, "between": ["f", "m"],
                                                      "estimate": 0.04, "low": 0.0, "high": 0.07}}),
)  # fmt: skip


def facts(text="Warns of late departures.", **more):
    """Everything that a card may tell."""
    report = GateReport(
        id="gates_1", model="late", version=2, at=AT, by="user:amina", policy_fingerprint="f",
        bundle="sha256:b", champion=1, passed=True, results=RESULTS,
    )  # fmt: skip
    policy = ModelPolicy(
        name="late", feature_service="delays", label="late", description=text, intended_use=text,
        limitations=text, owner="team:ops",
    )  # fmt: skip
    move = Move(
        model="late", version=2, from_stage=Stage.STAGING, to_stage=Stage.PRODUCTION, at=AT,
        asked_by="user:amina", approved_by="user:omar", reason=text, change="change_1",
        gate_report="gates_1",
    )  # fmt: skip
    made = TrainingSet(
        id="ts_1", table="training_set_1",
        spec=TrainingSetSpec(
            feature_service="delays", label="late", spine="departures", timestamp="at",
            split=TimeSplit(train_until=AT, validation_until=AT.replace(month=4)),
        ),
        features=("x",), spine_snapshot=1, snapshot=2, spine_hash="sha256:1",
        content_hash="sha256:2", definitions={}, purpose="warning travellers",
        permitted_purposes=("warning travellers",),
        n_rows={"train": 7000, "validation": 1000, "test": 2000},
        positive_rate={"train": 0.21, "validation": 0.2, "test": 0.22}, created_at=AT,
        created_by="user:amina",
    )  # fmt: skip
    alias = AliasMove(
        model="late", alias="champion", from_version=1, to_version=2, at=AT, asked_by="user:amina",
        approved_by="user:omar", reason=text,
    )  # fmt: skip
    given = {
        "version": 2, "alias_moves": (alias,), "description": text, "policy": policy,
        "results": RESULTS, "report": report, "moves": (move,), "training_set": made,
    }  # fmt: skip
    return CardFacts(SMALL, **{**given, **more})


def test_a_card_tells_use_data_metrics_slices_fairness_owner_and_approvals():
    told = written(facts()).markdown()
    for part in (
        "# late, version 2", "## Intended use", "## Limits", "## Owner", "team:ops",
        "| auc | 0.8100 | 0.7900 to 0.8300 |", "Gates of 2026-03-01 12:00 UTC: all passed.",
        "| carrier | XX | 1,200 | auc 0.810 | 0.790 to 0.830 |",
        "| sex | demographic parity | 0.040 | 0.000 to 0.070 | 0.1 | f and m |",
        "made for warning travellers; permits warning travellers",
        "| test | 2026-04-01 12:00 to the last row | 2,000 | 0.220 |",
        "nothing attests how it was made", "cut by time", "| champion | taken | user:amina |",
        "| 2026-03-01 12:00 | staging → production | user:amina | user:omar |",
    ):  # fmt: skip
        assert part in told, part


def test_both_forms_tell_the_same_words():
    card = written(facts())
    page = " ".join(Tags(card.page()).told)
    for part in ("late, version 2", "0.7900 to 0.8300", "demographic parity", "user:omar", "2,000"):
        assert part in page


def test_what_is_not_known_is_said_to_be():
    told = written(CardFacts(SMALL, version=1)).markdown()
    assert "No gate has been run." in told
    assert "## Intended use" not in told
    bare = ModelPolicy(name="late", feature_service="delays", label="late")
    assert written(CardFacts(SMALL, policy=bare)).markdown().count("Not declared.") == 2


def test_hostile_text_becomes_no_markup_in_markdown():
    told = written(facts(HOSTILE)).markdown()
    assert "<script" not in told
    assert "<img" not in told
    assert "![i]" not in told
    assert "\n# Approved" not in told
    assert "\\# Approved by the board" in told
    assert "\n1. really" not in told
    assert "\x1b" not in told
    assert "\u202e" not in told
    moves = [line for line in told.splitlines() if "user:omar" in line]
    assert [line.replace("\\|", "").count("|") for line in moves] == [8, 7]


def test_hostile_text_becomes_no_markup_in_a_page():
    page = Tags(written(facts(HOSTILE)).page())
    assert {tag for tag, _ in page.tags} <= ALLOWED
    attributes = {name for _, given in page.tags for name in given}
    assert attributes <= {"lang", "charset", "http-equiv", "content", "name", "scope", "class"}
    assert "<script>alert(1)</script>" in " ".join(page.told)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_no_text_at_all_becomes_a_tag_or_breaks_a_table(text):
    card = Written(
        text,
        (
            Section(
                text,
                (
                    (text, Code(text), Strong(text)),
                    Items(((text,),)),
                    Grid(("a", "b"), ((text, Code(text)),)),
                ),
            ),
        ),
    )
    assert {tag for tag, _ in Tags(card.page()).tags} <= ALLOWED
    rows = [line for line in card.markdown().splitlines() if line.startswith("| ")]
    assert len([line for line in rows if line != "| a | b |"]) <= 1 + text.count("|")
    assert not any(letter in card.page() for letter in "\x00\x1b\u202e")


def test_a_page_forbids_all_that_a_browser_would_load():
    page = Tags(written(facts()).page())
    policies = [given["content"] for tag, given in page.tags if "http-equiv" in given]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]


@pytest.mark.parametrize(
    ("text", "lines"), [("", []), ("one\ntwo", [("one two",)]), ("a\n \nb", [("a",), ("b",)])]
)
def test_paragraphs_are_parted_by_empty_lines(text, lines):
    assert paragraphs(text) == lines
