from __future__ import annotations

import pytest

from falaj.catalog.model import (
    Classification,
    Lineage,
    checked_owner,
    checked_ref,
    checked_region,
    checked_tags,
)
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput


def test_classifications_rise_from_public_to_sensitive() -> None:
    assert [one.level for one in Classification] == [0, 1, 2, 3]
    assert Classification.PERSONAL.level < Classification.SENSITIVE.level


def test_tags_are_lowered_sorted_and_each_kept_once() -> None:
    assert checked_tags(["NYC ", "delays", "nyc"]) == ("delays", "nyc")


@pytest.mark.parametrize("tag", ["", "two words", "a" * 65, "#x", "x\ny"])
def test_a_malformed_tag_is_refused(tag: str) -> None:
    with pytest.raises(InvalidInput, match="is not a tag"):
        checked_tags([tag])


@pytest.mark.parametrize(
    "ref", [AssetRef("Table", "x"), AssetRef("table", ""), AssetRef("table", "x" * 301),
            AssetRef("table", "a\nb"), AssetRef("", "x")]
)  # fmt: skip
def test_a_malformed_name_is_refused(ref: AssetRef) -> None:
    with pytest.raises(InvalidInput):
        checked_ref(ref)


@pytest.mark.parametrize("owner", ["amina", "user:", "robot:x", ""])
def test_a_malformed_owner_is_refused(owner: str) -> None:
    with pytest.raises(InvalidInput, match="is not an owner"):
        checked_owner(owner)


def test_a_team_may_own() -> None:
    assert checked_owner("team:delays") == "team:delays"


def test_a_malformed_region_is_refused() -> None:
    assert checked_region("ae") == "ae"
    with pytest.raises(InvalidInput, match="region"):
        checked_region("U.A.E.")


def test_the_names_of_a_lineage_are_listed_once() -> None:
    leaf = {"ref": {"kind": "table", "key": "t"}}
    lineage = Lineage.model_validate(
        {
            "direction": "upstream",
            "root": {
                "ref": {"kind": "run", "key": "r"},
                "branches": [leaf, {**leaf, "repeated": True}],
            },
        }
    )
    assert lineage.refs() == [AssetRef("table", "t")]
