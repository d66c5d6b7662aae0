"""Which definitions a feature service stands on, and the service as it was compiled then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from falaj.features.appliers import KINDS
from falaj.features.model import FeatureService
from falaj.features.plan import ServicePlan
from falaj.features.purposes import purposes_of
from falaj.features.sources import ForeignTable, Stream
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.training.ports import Pinned

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Definition, Definitions

SERVICE = FeatureService.kind


class CatalogPins:
    """Reads the pins from the applied definitions; see ``DefinitionPins``."""

    def __init__(self, definitions: Definitions) -> None:
        self._definitions = definitions

    def pins(self, connection: Connection, feature_service: str) -> Pinned:
        """The service as it stands now, with the version of everything that it refers to."""
        return self._compiled(_Recorded(self._definitions, connection), feature_service)

    def pinned(
        self,
        connection: Connection,
        feature_service: str,
        versions: Mapping[str, int],
        fingerprints: Mapping[str, str],
    ) -> Pinned:
        """The service as it was when these versions were current.

        A version that is not named is found by its fingerprint.
        """
        known = dict(versions)
        for name, fingerprint in fingerprints.items():
            if name not in known:
                known[name] = self._version_of(connection, name, fingerprint)
        return self._compiled(_Recorded(self._definitions, connection, known), feature_service)

    def _compiled(self, access: _Recorded, feature_service: str) -> Pinned:
        service = access.get(SERVICE, feature_service)
        if not isinstance(service, FeatureService):
            raise InvalidInput(f"{feature_service!r} is not a feature service.")
        plan = ServicePlan.of(service, access)
        for use in plan.views:
            access.note_source(use.plan.view.source)
        return Pinned(
            definitions=dict(sorted(access.fingerprints.items())),
            versions=dict(sorted(access.versions.items())),
            request_fields=tuple(plan.request_fields),
            service=plan,
            purposes=purposes_of(plan),
        )

    def _version_of(self, connection: Connection, name: str, fingerprint: str) -> int:
        kind, _, key = name.partition(":")
        for kept in self._definitions.history(connection, kind, key):
            if kept.fingerprint == fingerprint:
                return kept.version
        raise NotFound(
            f"No version of {name} has the fingerprint that was pinned.",
            hint="The definitions of this platform are not those that the set was made with.",
        )


class _Recorded:
    """Definitions in one transaction, remembering which version was asked for.

    Args:
        versions: the version of each definition that is to be used; the current one of
            those that it does not name.
    """

    def __init__(
        self,
        definitions: Definitions,
        connection: Connection,
        versions: Mapping[str, int] | None = None,
    ) -> None:
        self._definitions = definitions
        self._connection = connection
        self._wanted = versions or {}
        self.versions: dict[str, int] = {}
        self.fingerprints: dict[str, str] = {}

    def get(self, kind: str, name: str) -> Definition:
        return self._found(kind, name, self._wanted.get(f"{kind}:{name}"))

    def version(self, kind: str, name: str, version: int) -> Definition:
        return self._found(kind, name, version)

    def note_source(self, table: str) -> None:
        """Remember the stream or the foreign table that a view names as a table."""
        for kind in (Stream.kind, ForeignTable.kind):
            try:
                self.get(kind, table)
            except NotFound:
                continue  # a table of the lake alone, or a source of the other kind

    def all(self, kind: str) -> Sequence[Definition]:
        raise InvalidInput(f"A feature service refers to its {kind}s by name.")

    def _found(self, kind: str, name: str, version: int | None) -> Definition:
        kept = self._definitions.version(self._connection, kind, name, version)
        fields = {field: value for field, value in kept.document.items() if field != "kind"}
        found = KINDS[kind].model_validate(fields)
        self.versions[f"{kind}:{name}"] = kept.version
        self.fingerprints[f"{kind}:{name}"] = kept.fingerprint
        return found
