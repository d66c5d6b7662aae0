"""What the columns of a training set come from, so that they stay as secret as that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from falaj.catalog.columns import origin
from falaj.features.exposure import origins_of_service
from falaj.lake.queries import origins_of_query, table_names

if TYPE_CHECKING:
    from falaj.lake.ports import Lake
    from falaj.training.model import TrainingSetSpec
    from falaj.training.ports import Pinned


def spine_origins(lake: Lake, spec: TrainingSetSpec, snapshot: int) -> dict[str, tuple[str, ...]]:
    """By column of a spine, in lower case, its origins; ``*`` stands for all that are not named.

    Raises:
        QueryRefused: the query of the spine is none that the lake takes.
    """
    if spec.spine_query is None:
        found: dict[str, set[str]] = {}
        for table in spec.tables:
            for name in lake.schema(table, snapshot).names:
                found.setdefault(name.lower(), set()).add(origin(table, name))
    else:
        tables = table_names(spec.spine_query, lake.tables())
        columns = {table: lake.schema(table, snapshot).names for table in tables}
        found = {
            name: {origin(*one) for one in made_of}
            for name, made_of in origins_of_query(spec.spine_query, columns).items()
        }
    return {name: tuple(sorted(made_of)) for name, made_of in found.items()}


def set_origins(
    columns: Sequence[str], spine: Mapping[str, tuple[str, ...]], pinned: Pinned
) -> dict[str, tuple[str, ...]]:
    """By column of a training set its origins.

    Args:
        columns: of the set: those of the spine, and the features.
        spine: what ``spine_origins`` said.
        pinned: the feature service.
    """
    features = {} if isinstance(pinned.service, str) else origins_of_service(pinned.service)
    found = {}
    for name in columns:
        if name in features and name.lower() not in spine:
            found[name] = tuple(features[name])
        else:
            found[name] = spine.get(name.lower(), spine.get("*", ()))
    return {name: made_of for name, made_of in found.items() if made_of}


__all__ = ["set_origins", "spine_origins"]
