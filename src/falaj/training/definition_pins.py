"""Which definitions a feature service stands on: itself and all that it refers to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from falaj.kernel.call import AssetRef
from falaj.kernel.errors import NotFound

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definitions

SERVICE = "feature_service"
_EITHER = {"feature_view": "on_demand", "on_demand": "feature_view"}
"""A service may name a view or an on-demand feature in the same manner."""


class CatalogPins:
    """Reads the pins from the applied definitions; see ``DefinitionPins``."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions

    def pins(self, connection: Connection, feature_service: str) -> dict[str, str]:
        """``kind:name`` with its fingerprint, for the service and all definitions upstream."""
        first = AssetRef(SERVICE, feature_service)
        found = {str(first): self._definitions.definition(connection, SERVICE, feature_service)}
        waiting = found[str(first)].references()
        while waiting:
            ref = waiting.pop()
            for kind in (ref.kind, _EITHER.get(ref.kind, ref.kind)):
                name = f"{kind}:{ref.key}"
                if name in found:
                    break
                try:
                    found[name] = self._definitions.definition(connection, kind, ref.key)
                except NotFound:
                    continue  # a table of the lake, or a definition of the other kind
                waiting += found[name].references()
                break
        return {name: definition.fingerprint for name, definition in sorted(found.items())}

    def request_fields(self, connection: Connection, feature_service: str) -> tuple[str, ...]:
        """The columns of a spine that are inputs of the model as well."""
        document = self._definitions.current(connection, SERVICE, feature_service)
        return tuple(document.get("request_fields") or ())
