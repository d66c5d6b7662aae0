"""What callers see of the lake's rows, joined from the parts of their platform."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from falaj.kernel.call import Call, Caller
from falaj.kernel.errors import NotFound

if TYPE_CHECKING:
    import pyarrow as pa
    from sqlalchemy.engine import Connection

    from falaj.catalog.definitions import Applier, Resulting
    from falaj.features.exposure import FeatureSight
    from falaj.features.plan import ServicePlan
    from falaj.ingest.declared import DeclaredSources
    from falaj.ingest.model import Source
    from falaj.ingest.readable import ContractSight
    from falaj.lake.ports import Lake
    from falaj.lake.reading import GuardedLake
    from falaj.serving.model import Release
    from falaj.wiring.assembly import Premises

_HASHES = "lake.masks"
"""The purpose of the secret that masked values are hashed with."""


def guarded_lake(made: Premises) -> GuardedLake:
    """The lake as callers may see it."""
    from falaj.lake.reading import GuardedLake
    from falaj.lake.readrules import ReadRules
    from falaj.lake.sight import Sights

    rules = ReadRules(made.definitions)
    sights = Sights(made.catalog, rules, made.may, lambda: made.keys.derive(_HASHES))
    return GuardedLake(made.lake, sights)


def feature_sight(made: Premises) -> FeatureSight:
    """Whether callers see all that features are made of."""
    from falaj.features.exposure import FeatureSight

    return FeatureSight(guarded_lake(made))


class DataPlaneSight:
    """``FeatureSight`` for callers of the data plane, who come without a call."""

    def __init__(self, made: Premises) -> None:
        self._made = made

    def features(self, caller: Caller, plan: ServicePlan) -> None:
        """Return if a caller sees all that the features of a service are made of.

        Raises:
            SeenInPart: it does not.
        """
        made = self._made
        with made.database.reading() as connection:
            call = Call(caller, "features.read", made.clock.now(), connection)
            feature_sight(made).check(call, plan, "read features made of")

    def explained(self, caller: Caller, release: Release) -> None:
        """Return if a caller may be told the features that predictions were made of.

        Raises:
            StepUpRequired, Forbidden, NotFound: it may not read them.
        """
        from falaj.features.plan import ServicePlan
        from falaj.features.purposes import permitted
        from falaj.kernel.call import AssetRef
        from falaj.serving.featureplane import READ, Judge

        if release.features is None or release.feature_service is None:
            return  # whatever there is to tell came with the request
        made = self._made
        ref = AssetRef("feature_service", release.feature_service)
        with made.database.reading() as connection:
            resource = made.resources.load(connection, ref)
        Judge(made.policy, made.clock).permit(caller, READ, resource)
        plan = ServicePlan.from_documents(release.features["definitions"])
        permitted(plan, caller.purpose)
        self.features(caller, plan)


def contract_sight(made: Premises) -> ContractSight:
    """Refuses contracts that ask about what a caller may not read."""
    from falaj.ingest.readable import ContractSight

    return ContractSight(made.may, made.catalog.load, lambda: guarded_lake(made))


def ingest_appliers(made: Premises) -> dict[str, Applier]:
    """What happens when a source or a contract is applied, by the kind of definition."""

    def contract(call: Call, definition: Any) -> None:
        contract_sight(made).check_applied(call, definition)

    return {"source": declared_sources(made), "contract": contract}


def declared_sources(made: Premises) -> DeclaredSources:
    """What happens when a source is applied."""
    from falaj.ingest.declared import DeclaredSources
    from falaj.ingest.model import Source

    def sources(connection: Connection) -> list[Source]:
        kept = made.definitions.listed(connection, kind=Source.kind)
        found = [made.definitions.parsed(one) for one in kept]
        return [one for one in found if isinstance(one, Source)]

    def before(connection: Connection, source: Source) -> Source | None:
        versions = made.definitions.history(connection, Source.kind, source.name)
        if len(versions) < 2:
            return None
        earlier = made.definitions.parsed(versions[1])
        return earlier if isinstance(earlier, Source) else None

    return DeclaredSources(made.catalog, sources, before)


def schema_of(lake: Lake, table: str, resulting: Resulting) -> pa.Schema | None:
    """The columns of a table that is there, or that a source declares; None if neither."""
    import pyarrow as pa

    from falaj.ingest.model import Source

    try:
        return lake.schema(table)
    except NotFound:
        for one in resulting.all(Source.kind):
            if isinstance(one, Source) and one.table == table:
                return pa.schema([(name, _arrow(one.columns.get(name))) for name in one.stored])
    return None


def _arrow(kind: str | None) -> pa.DataType:
    """The type of a column that a source declares; that of a derived one is not known yet."""
    import pyarrow as pa

    instant = pa.timestamp("us", tz="UTC")
    types = {"text": pa.string(), "integer": pa.int64(), "number": pa.float64(),
             "boolean": pa.bool_(), "date": pa.date32(), "instant": instant}  # fmt: skip
    return pa.null() if kind is None else types.get(kind, pa.decimal128(38, 6))
