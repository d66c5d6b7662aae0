"""Views over tables of persons say whom they are about, or are refused."""

import pytest
from pydantic import ValidationError

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.catalog.model import Classification
from falaj.features.appliers import KINDS, appliers
from falaj.features.model import Aggregate, Entity, Feature, FeatureView
from falaj.features.sources import Stream
from falaj.features.subjectviews import SubjectsNamed, subject_of
from falaj.ingest.model import Source
from falaj.kernel.errors import InvalidInput
from falaj.testing.features import GivenDefinitions

CARD = Entity(name="card", keys={"card": "string", "shop": "string"})
COLUMNS = {"pan": "string", "shop": "string", "at": "timestamp", "amount": "float64"}
STREAM = Stream(name="payments", columns=COLUMNS, event_time="at", subject="pan",
                subject_kind="holder")  # fmt: skip
SOURCE = Source(
    name="history", table="payments", path="x.csv", subject="pan", subject_kind="holder",
    columns={"pan": "text", "shop": "text", "at": "instant", "amount": "number"},
)  # fmt: skip


def view(**values):
    given = {
        "name": "spent",
        "entity": CARD,
        "source": "payments",
        "event_time": "at",
        "entity_columns": {"card": "pan"},
        "features": [Feature("amount", "float64")],
    }
    return FeatureView(**{**given, **values})  # fmt: skip


NAMED = view(subject="card", subject_kind="holder")


@pytest.fixture
def apply(sqlite_database, make_call):
    def find(connection, kind, name, version=None):
        return definitions.definition(connection, kind, name, version)

    definitions = Definitions(
        Catalog(), {**KINDS, "source": Source}, appliers(find), [SubjectsNamed()]
    )

    def apply_all(*given):
        with make_call(sqlite_database) as call:
            return definitions.apply(call, given)

    return apply_all


@pytest.mark.parametrize("declared", [STREAM, SOURCE])
def test_a_view_over_a_table_of_persons_names_the_same_person_or_is_refused(apply, declared):
    apply(CARD, declared, NAMED)
    with pytest.raises(InvalidInput, match="does not say whom it is about") as told:
        apply(view(name="other"))
    assert 'subject_kind="holder"' in str(told.value.hint)
    for wrong in ({"subject": "shop", "subject_kind": "holder"}, {"subject": "card"}):
        with pytest.raises(InvalidInput, match=r"but .* about the holder in 'pan'"):
            apply(view(name="other", **wrong))


@pytest.mark.parametrize("declared", [STREAM, SOURCE])
def test_a_view_of_something_else_may_count_and_add_up_but_keeps_no_persons_values(apply, declared):
    declared = declared.model_copy(update={"classifications": {"amount": Classification.PERSONAL}})
    shop = Entity(name="shop", keys={"shop": "string"})
    common = {"entity": shop, "entity_columns": {}}
    sums = [Aggregate(name, name, "amount", window="PT1H") for name in ("sum", "mean", "count")]
    apply(CARD, shop, declared, view(name="sums", features=[], aggregates=sums, **common))
    for values in (
        {},
        {"features": [], "aggregates": [Aggregate("m", "max", "amount", window="PT1H")]},
        {"features": [Feature("pan", "string")]},
    ):
        with pytest.raises(InvalidInput, match="values of single persons"):
            apply(view(name="other", **common, **values))
    apply(view(name="times", features=[Feature("at", "timestamp")], **common))


def test_a_table_does_not_become_one_of_persons_under_a_view_that_names_none(apply):
    apply(CARD, STREAM.model_copy(update={"subject": None}), view())
    with pytest.raises(InvalidInput, match="does not say whom it is about"):
        apply(STREAM)
    apply(STREAM, NAMED)


def test_a_stream_and_a_source_of_one_table_name_the_same_person(apply):
    apply(CARD, STREAM, SOURCE)
    with pytest.raises(InvalidInput, match="different subjects"):
        apply(SOURCE.model_copy(update={"subject": "shop"}))


def test_a_view_over_a_table_that_says_nothing_may_still_be_about_persons(apply):
    apply(CARD, NAMED)


def test_the_subject_of_a_table_is_that_of_its_stream_its_source_or_its_view():
    assert subject_of(GivenDefinitions(CARD, STREAM), "payments") == ("pan", "holder")
    assert subject_of(GivenDefinitions(CARD, SOURCE), "payments") == ("pan", "holder")
    assert subject_of(GivenDefinitions(CARD, NAMED), "payments") == ("pan", "holder")
    assert subject_of(GivenDefinitions(CARD, view()), "payments") is None
    assert subject_of(GivenDefinitions(CARD, STREAM), "others") is None


def test_a_stream_names_persons_by_one_of_its_columns_of_text_or_whole_numbers():
    with pytest.raises(ValidationError, match="not one of the stream's columns"):
        Stream(name="payments", columns=COLUMNS, event_time="at", subject="card")
    with pytest.raises(ValidationError, match="string or int64"):
        Stream(name="payments", columns=COLUMNS, event_time="at", subject="amount")
    with pytest.raises(ValidationError, match="not one of the stream's columns"):
        Stream(name="payments", columns=COLUMNS, event_time="at", classifications={"x": "personal"})
