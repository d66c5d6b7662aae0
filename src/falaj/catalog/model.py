"""The words of the catalogue: assets, their versions, lineage edges and trees."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import InvalidInput

_KIND = re.compile(r"^[a-z][a-z_]{0,39}$")
_TAG = re.compile(r"^[a-z0-9][a-z0-9._:=-]{0,63}$")
_REGION = re.compile(r"^[a-z0-9][a-z0-9-]{0,63}$")
LONGEST_KEY = 300


class Classification(StrEnum):
    """How much harm a leak would do; each level includes the rules of those before it."""

    PUBLIC = "public"
    INTERNAL = "internal"
    PERSONAL = "personal"
    SENSITIVE = "sensitive"

    @property
    def level(self) -> int:
        """0 for public to 3 for sensitive."""
        return list(Classification).index(self)


def lowers(before: str | None, after: str | None) -> bool:
    """True if a classification falls, to a lower level or to none."""
    if before is None:
        return False
    return after is None or Classification(after).level < Classification(before).level


class Relation(StrEnum):
    """How an asset flows into another one: ``source RELATION target``."""

    FEEDS = "feeds"  # rows or values of the source go into the target
    DEFINES = "defines"  # the source says what the target is
    TRAINED = "trained"  # the source (a run) made the target (a model version)
    PACKAGED = "packaged"  # the source went into the target's bundle
    APPROVED = "approved"  # the source (a change) permitted the target
    SERVES = "serves"  # the source (a model version) answers through the target
    PREDICTED = "predicted"  # the source (a release) gave the target (a prediction)


class Direction(StrEnum):
    """Which way a walk goes: against the flow to the origins, or with it to the effects."""

    UPSTREAM = "upstream"
    DOWNSTREAM = "downstream"


class Asset(BaseModel):
    """One asset as it stands now."""

    model_config = ConfigDict(frozen=True)

    kind: str
    key: str
    description: str = ""
    owner: str
    classification: Classification | None = None
    """None: nobody has said yet."""
    region: str | None = None
    tags: tuple[str, ...] = ()
    attributes: dict[str, Any] = {}
    version: int
    created_at: datetime
    created_by: str
    updated_at: datetime

    @property
    def ref(self) -> AssetRef:
        """Its name."""
        return AssetRef(self.kind, self.key)


class AssetVersion(BaseModel):
    """An asset as one change of it left it: who, when, in which call, and the new state."""

    model_config = ConfigDict(frozen=True)

    version: int
    at: datetime
    by: str
    action: str
    call_id: str
    state: dict[str, Any]


class Edge(BaseModel):
    """``source`` flows into ``target``."""

    model_config = ConfigDict(frozen=True)

    source: AssetRef
    target: AssetRef
    relation: Relation
    at: datetime
    by: str


class LineageNode(BaseModel):
    """An asset in a lineage tree, with what lies beyond it in the walk's direction."""

    ref: AssetRef
    relation: Relation | None = None
    """The edge by which the walk came here; None at the root."""
    at: datetime | None = None
    """When that edge was drawn."""
    repeated: bool = False
    """True if this asset stands elsewhere in the tree with its branches (or on a cycle)."""
    branches: list[Self] = []

    def walked(self) -> Iterator[LineageNode]:
        """This node and all beyond it, depth first."""
        yield self
        for branch in self.branches:
            yield from branch.walked()


class Lineage(BaseModel):
    """A walk from one asset."""

    direction: Direction
    root: LineageNode
    truncated: bool = False
    """True if the walk stopped at its limit of depth or of assets."""

    def refs(self) -> list[AssetRef]:
        """All assets of the walk but the first, each once."""
        found = dict.fromkeys(node.ref for node in self.root.walked())
        found.pop(self.root.ref)
        return list(found)


def checked_ref(ref: AssetRef) -> AssetRef:
    """The name, if it is well formed.

    Raises:
        InvalidInput: the kind or the key is not.
    """
    if not _KIND.match(ref.kind):
        raise InvalidInput(
            f"{ref.kind!r} is not a kind of asset.",
            hint="A kind is lower case letters and underscores, such as feature_view.",
        )
    if not ref.key or len(ref.key) > LONGEST_KEY or not ref.key.isprintable():
        raise InvalidInput(
            f"{ref.key[:80]!r} is not the key of an asset.",
            hint=f"A key has 1 to {LONGEST_KEY} printable characters.",
        )
    return ref


def checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """The tags in lower case, sorted, each once; raises InvalidInput for a malformed one."""
    lowered = sorted({tag.strip().lower() for tag in tags})
    for tag in lowered:
        if not _TAG.match(tag):
            raise InvalidInput(
                f"{tag!r} is not a tag.",
                hint="A tag has 1 to 64 of a-z, 0-9, dot, dash, underscore, colon and equals.",
            )
    return tuple(lowered)


def checked_region(region: str) -> str:
    """The region's name, if it is well formed; raises InvalidInput."""
    if not _REGION.match(region):
        raise InvalidInput(
            f"{region!r} is not the name of a region.",
            hint="Use lower case letters, digits and dashes, such as ae or eu-west-1.",
        )
    return region


def checked_owner(owner: str) -> str:
    """The owner's principal id or team, if it is well formed; raises InvalidInput."""
    kind, colon, name = owner.partition(":")
    if not colon or kind not in ("user", "service", "system", "team") or not name.strip():
        raise InvalidInput(
            f"{owner!r} is not an owner.",
            hint="Name a principal or a team: user:amina, service:ci, team:delays.",
        )
    return owner
