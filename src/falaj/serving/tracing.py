"""From one prediction back to what it was made of: the logged row, then the lineage graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from falaj.catalog.model import Classification, LineageNode, Relation
from falaj.kernel.call import AssetRef
from falaj.kernel.clock import from_microseconds
from falaj.kernel.errors import InvalidInput, NotFound
from falaj.kernel.ids import is_id
from falaj.serving.compositions import opened
from falaj.serving.makingreleases import release_ref
from falaj.serving.model import FeatureStatus, Release, TraceNode
from falaj.serving.names import table_of
from falaj.serving.tables import endpoint_rows, release_row

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.catalog.assets import Catalog
    from falaj.lake.ports import Lake
    from falaj.serving.ports import Bundles

Facts = Callable[["Connection", str], Mapping[str, Any]]
_CLOCKS_APART = timedelta(hours=1)


class Tracing:
    """Finds logged predictions and walks the catalogue upstream from their release.

    Args:
        lake: holds the prediction log.
        catalog: holds the lineage.
        bundles: name the inputs of the model version.
        facts: for a kind of asset, what to tell about one beyond the catalogue's attributes
            (the approver of a change, the metrics of a run), by its key.
    """

    def __init__(
        self, lake: Lake, catalog: Catalog, bundles: Bundles, facts: Mapping[str, Facts]
    ) -> None:
        self._lake = lake
        self._catalog = catalog
        self._bundles = bundles
        self._facts = dict(facts)

    def row(self, connection: Connection, prediction: str) -> dict[str, Any]:
        """The logged row of a prediction.

        Raises:
            InvalidInput: that is no prediction id.
            NotFound: it is not in the log, or not yet.
        """
        if not is_id(prediction, "pred"):
            raise InvalidInput(
                f"{prediction[:80]!r} is not the id of a prediction.",
                hint="It begins with pred_ and stands in the answer beside the score.",
            )
        # The id holds its time: the lake skips the files of other hours.
        at = from_microseconds(int(prediction[5:17], 16) * 1000)
        bounds = {"id": prediction, "since": at - _CLOCKS_APART, "until": at + _CLOCKS_APART}
        for row in endpoint_rows(connection):
            if not self._lake.exists(row.lake_table):
                continue
            found = self._lake.scan(
                row.lake_table,
                where="prediction_id = $id AND requested_at BETWEEN $since AND $until",
                parameters=bounds,
                limit=1,
            )
            if found.num_rows:
                logged: dict[str, Any] = found.to_pylist()[0]
                return logged
        raise self.missing(prediction)

    @staticmethod
    def missing(prediction: str) -> NotFound:
        """That there is no such prediction, or none that the caller may know of."""
        return NotFound(
            f"There is no prediction {prediction!r} in the log.",
            hint="A fresh one arrives within seconds; repeat the call.",
        )

    def is_secret(self, connection: Connection, ref: AssetRef) -> bool:
        """True if an asset is classified as personal or sensitive."""
        classification = self._catalog.load(connection, ref).attributes.get("classification")
        return classification in (Classification.PERSONAL, Classification.SENSITIVE)

    def trace(self, connection: Connection, prediction: str) -> TraceNode:
        """The tree from a prediction to its source tables; raises as ``row`` does."""
        row = self.row(connection, prediction)
        release = self._release(connection, row["release"])
        ref = release_ref(row["endpoint"], row["release"])
        causes = []
        if self._catalog.exists(connection, ref):
            walked = self._catalog.walk(connection, ref)
            cause = self._told(connection, walked.root)
            cause.relation = str(Relation.PREDICTED)
            if len(release.variants) > 1:
                variant = next(one for one in release.variants if one.name == row["variant"])
                served = {member.label for member in variant.pinned}
                cause.causes = [
                    one for one in cause.causes if one.kind != "model_version" or one.key in served
                ]
            causes.append(cause)
        return TraceNode(
            kind="prediction",
            key=prediction,
            facts=self._facts_of_row(row, release),
            causes=causes,
        )

    def _release(self, connection: Connection, release: str) -> Release:
        row = release_row(connection, release)
        if row is None:
            raise NotFound(f"There is no release {release!r} any more.", hint="Restore a backup.")
        return Release.model_validate(row.document)

    def _facts_of_row(self, row: Mapping[str, Any], release: Release) -> dict[str, Any]:
        variant = next(item for item in release.variants if item.name == row["variant"])
        if row["features"] is None:  # the person was erased
            return self._facts_of_erased(row)
        names = opened(self._bundles, variant).inputs
        statuses = row["statuses"] or [int(FeatureStatus.PRESENT)] * len(names)
        features = {
            name: value if status == FeatureStatus.PRESENT else FeatureStatus(status).name.lower()
            for name, value, status in zip(names, row["features"], statuses, strict=True)
        }
        kept = ("request_id", "endpoint", "variant", "score", "latency_us", "caller", "fields")
        facts = {name: row[name] for name in kept}
        instants = ("requested_at", "predicted_for", "features_at")
        facts |= {name: row[name].isoformat() if row[name] else None for name in instants}
        facts |= {"table": table_of(row["endpoint"]), "features": features}
        return facts

    @staticmethod
    def _facts_of_erased(row: Mapping[str, Any]) -> dict[str, Any]:
        kept = ("request_id", "endpoint", "variant", "latency_us", "caller")
        at = {name: row[name].isoformat() for name in ("requested_at", "predicted_for")}
        table = table_of(row["endpoint"])
        return {**{name: row[name] for name in kept}, **at, "table": table, "erased": True}

    def _told(self, connection: Connection, node: LineageNode) -> TraceNode:
        facts: dict[str, Any] = {}
        if not node.repeated:
            facts = self._known(connection, node.ref)
        return TraceNode(
            kind=node.ref.kind,
            key=node.ref.key,
            relation=str(node.relation or ""),
            facts=facts,
            causes=[self._told(connection, branch) for branch in node.branches],
        )

    def _known(self, connection: Connection, ref: AssetRef) -> dict[str, Any]:
        asset = self._catalog.get(connection, ref)
        facts = {"owner": asset.owner, **asset.attributes}
        more = self._facts.get(ref.kind)
        if more is not None:
            try:
                facts |= more(connection, ref.key)
            except NotFound:
                facts["gone"] = True  # its record was removed; the lineage stays
        return facts
