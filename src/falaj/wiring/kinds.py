"""The kinds of definition that a user may declare."""

from __future__ import annotations

from falaj.catalog.definitions import Definition


def definition_kinds() -> dict[str, type[Definition]]:
    """Every definition class by its kind."""
    from falaj.features.appliers import KINDS
    from falaj.ingest.model import Contract, Source
    from falaj.models.model import ModelPolicy
    from falaj.monitoring.model import Monitor
    from falaj.serving.model import Endpoint

    own: list[type[Definition]] = [Source, Contract, ModelPolicy, Endpoint, Monitor]
    return {**{kind.kind: kind for kind in own}, **KINDS}
