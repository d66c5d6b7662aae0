"""Which definitions a feature service stands on: itself and all that it refers to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.features.model import FeatureService, OnDemandFeatures
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import NotFound

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definition, Definitions

SERVICE = "feature_service"
_VERSIONED = ("feature_view", "on_demand")
_KINDS = {
    "feature_view": _VERSIONED,
    "on_demand": ("on_demand", "feature_view"),
    "table": ("stream", "foreign_table"),
}
"""What a reference may mean: a service names views and on-demand features in the same
manner, and a view names a stream or a foreign table as a table."""


def _versions(definition: Definition) -> dict[str, int]:
    """The versions that a definition names of those that it takes from."""
    if not isinstance(definition, FeatureService | OnDemandFeatures):
        return {}
    return {name: version for name, version in definition.versions().items() if version}


class CatalogPins:
    """Reads the pins from the applied definitions; see ``DefinitionPins``."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions

    def pins(self, connection: Connection, feature_service: str) -> dict[str, str]:
        """``kind:name`` with its fingerprint, for the service and all definitions upstream."""
        first = AssetRef(SERVICE, feature_service)
        found = {str(first): self._definitions.definition(connection, SERVICE, feature_service)}
        versions = _versions(found[str(first)])
        waiting = found[str(first)].references()
        while waiting:
            ref = waiting.pop()
            for kind in _KINDS.get(ref.kind, (ref.kind,)):
                name = f"{kind}:{ref.key}"
                if name in found:
                    break
                version = versions.get(ref.key) if kind in _VERSIONED else None
                try:
                    found[name] = self._definitions.definition(connection, kind, ref.key, version)
                except NotFound:
                    continue  # a table of the lake, or a definition of the other kind
                versions = {**_versions(found[name]), **versions}
                waiting += found[name].references()
                break
        return {name: definition.fingerprint for name, definition in sorted(found.items())}

    def request_fields(self, connection: Connection, feature_service: str) -> tuple[str, ...]:
        """The columns of a spine that are inputs of the model as well."""
        document = self._definitions.current(connection, SERVICE, feature_service)
        return tuple(document.get("request_fields") or ())
