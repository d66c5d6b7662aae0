"""The actions on endpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from falaj.catalog.model import Classification
from falaj.kernel.actions import Service, action
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import NotFound
from falaj.kernel.jobs import Job
from falaj.serving import scalingtable
from falaj.serving.batchmodel import OnError
from falaj.serving.explain import Explain
from falaj.serving.model import (
    Activation,
    Answer,
    EndpointName,
    EndpointStatus,
    EndpointSummary,
    Measurement,
    Release,
    ReleaseStatus,
    TraceNode,
    Traffic,
)
from falaj.serving.names import table_of
from falaj.serving.scalingrecords import ScalingRecord

if TYPE_CHECKING:
    from falaj.lake.reading import GuardedLake
    from falaj.serving.batchrequests import Scorings
    from falaj.serving.explaining import Explained
    from falaj.serving.meters import Meters
    from falaj.serving.predictor import Predictor
    from falaj.serving.releases import Releases
    from falaj.serving.routing import RoutingTable
    from falaj.serving.tracing import Tracing


Names = list[str]
May = Callable[[Call, str, AssetRef], bool]
"""True if the caller may do the named action on an asset, as the caller stands now."""
_VALUES = ("features", "fields", "score", "request_id")
"""What a trace tells of a row of the prediction log that may be about a person."""
Limit = Annotated[int, Field(ge=1, le=1000)]


class EndpointService(Service):
    """Endpoints and their releases: what serves, and since when."""

    name: ClassVar[str] = "endpoints"

    def __init__(
        self,
        releases: Releases,
        table: RoutingTable,
        predictor: Predictor,
        tracing: Tracing,
        meters: Meters,
        may: May,
        scorings: Scorings,
        guarded: GuardedLake,
        explained: Explained,
    ) -> None:
        self._releases = releases
        self._table = table
        self._predictor = predictor
        self._tracing = tracing
        self._meters = meters
        self._may = may
        self._scorings = scorings
        self._guarded = guarded
        self._explained = explained

    @action(get="/endpoints")
    def list(self) -> Sequence[EndpointSummary]:
        """List the endpoints, and which model version each serves."""
        listed = self._releases.listed(self.call.connection)
        return [one for one in listed if self._may_see(one.name)]

    @action(get="/endpoints/{name}", on="endpoint")
    def status(self, name: EndpointName) -> EndpointStatus:
        """Show an endpoint now: its active release, its workers, its traffic and latency."""
        active = self._releases.active(self.call.connection, name)
        generation, _, splits = self._table.served()
        return EndpointStatus(
            endpoint=name,
            active=active,
            shares={} if active is None else active.shares(splits.get(name)),
            generation=generation,
            workers=self._table.workers(),
            traffic=self._traffic(name),
        )

    @action(get="/endpoints/{name}/openapi", on="endpoint")
    def openapi(self, name: EndpointName) -> dict[str, Any]:
        """Describe what an endpoint takes and answers, as an OpenAPI document."""
        from falaj.serving.endpointopenapi import document

        active = self._releases.active(self.call.connection, name)
        if active is None:
            raise NotFound(
                f"The endpoint {name!r} serves nothing.",
                hint="Deploy a release: `falaj endpoints deploy NAME --activate`.",
            )
        return document(active)

    @action(get="/endpoint-traffic")
    def traffic(self) -> Measurement:
        """Show what the workers of this machine have counted, by endpoint and variant.

        Two answers tell the rates and quantiles of the time between them; ``falaj endpoints
        top`` does.
        """
        at = self.call.now
        _, active = self._table.active()
        series = self._meters.series()
        seen = {name for name in {one.endpoint for one in series} if self._may_see(name)}
        kept = [one for one in series if one.endpoint in seen]
        for one in kept:
            one.release = active.get(one.endpoint)
        return Measurement(at=at, series=kept)

    @action(get="/endpoints/{name}/releases", on="endpoint")
    def releases(self, name: EndpointName) -> Sequence[ReleaseStatus]:
        """List the releases of an endpoint, the newest first."""
        return self._releases.statuses(self.call.connection, name)

    @action(get="/endpoints/{name}/history", on="endpoint")
    def history(self, name: EndpointName) -> Sequence[Activation]:
        """List every switch of an endpoint: what served, since when, and who switched."""
        return self._releases.history(self.call.connection, name)

    @action(post="/endpoints/{name}/releases", on="endpoint")
    def deploy(
        self, name: EndpointName, *, version: int | None = None, activate: bool = False
    ) -> Release:
        """Make a release of the model version that is approved for production.

        With ``activate`` it serves as soon as every worker is ready for it.
        """
        release = self._releases.deploy(self.call, name, version)
        if activate:
            self._releases.activate(self.call, name, release.id)
        return release

    @action(post="/endpoints/{name}/activations", on="endpoint")
    def activate(self, name: EndpointName, release: str, *, wait_seconds: float = 15.0) -> Release:
        """Let a release serve; returned from, every later answer is its."""
        return self._releases.activate(self.call, name, release, wait_seconds=wait_seconds)

    @action(post="/endpoints/{name}/rollbacks", on="endpoint")
    def rollback(self, name: EndpointName, *, wait_seconds: float = 15.0) -> Release:
        """Let the release that served before serve again."""
        return self._releases.rollback(self.call, name, wait_seconds=wait_seconds)

    @action(post="/endpoints/{name}/retirements", on="endpoint")
    def retire(self, name: EndpointName, release: str) -> None:
        """Retire a release for good: it is never activated or rolled back to again."""
        self._releases.retire(self.call, name, release)

    @action(post="/endpoints/{name}/deactivations", on="endpoint")
    def deactivate(self, name: EndpointName) -> None:
        """Let an endpoint serve nothing; its releases stay."""
        self._releases.deactivate(self.call, name)

    @action(post="/endpoints/{name}/predictions", on="endpoint")
    def predict(
        self,
        name: EndpointName,
        inputs: Sequence[dict[str, Any]],
        *,
        request_id: str | None = None,
        at: datetime | None = None,
        explain: bool = False,
        contributions: bool = False,
    ) -> Answer:
        """Ask for predictions, through the same plan as the inference workers.

        Args:
            name: the endpoint.
            inputs: rows of named fields.
            request_id: the caller's own name for this request.
            at: the instant that the rows are about; now if it is left out.
            explain: tell the features that each prediction was made of.
            contributions: tell how much each input moved the raw score (tree models).
        """
        if explain:
            release = self._releases.active(self.call.connection, name)
            if release is not None:
                self._explained(self.call.caller, release)
        return self._predictor.predict(
            name,
            inputs,
            caller=self.call.principal.id,
            request_id=request_id,
            at=at,
            explain=explain * Explain.FEATURES + contributions * Explain.CONTRIBUTIONS,
        )

    @action(get="/scaling")
    def scaling(self, *, limit: Limit = 50) -> Sequence[ScalingRecord]:
        """List the decisions that changed the number of inference workers, the newest first."""
        return scalingtable.history(self.call.connection, limit=limit)

    @action(post="/endpoints/{name}/scorings", on="endpoint")
    def score(
        self,
        name: EndpointName,
        to: str,
        *,
        table: str | None = None,
        snapshot: int | None = None,
        files: Names = [],  # noqa: B006 - never changed; the default of a signature
        at: str | None = None,
        keys: Names = [],  # noqa: B006
        on_error: OnError = OnError.FAIL,
        classification: Classification | None = None,
        parquet: str | None = None,
    ) -> Job:
        """Score a table or files into a lake table, one output row for each input row.

        Args:
            name: the endpoint; the release that serves now scores all rows.
            to: the output table; made if it is new.
            table: the input table.
            snapshot: of the input table; the latest if it is left out.
            files: or paths of Parquet, CSV or Arrow files, which may hold wildcards.
            at: a column of instants, or an instant: features as they were known then. Left
                out, features as they stand online when a row is scored.
            keys: columns of the input to carry into the output.
            on_error: what becomes of a row that is refused: the job fails, or its outputs are
                null and the column `error` says why.
            classification: of the output at least; files count as personal without it.
            parquet: write the output to this file as well; needs a fresh second factor.
        """
        return self._scorings.begin(
            self.call,
            name,
            to=to,
            table=table,
            snapshot=snapshot,
            files=files,
            at=at,
            keys=keys,
            on_error=on_error,
            classification=classification,
            parquet=parquet,
        )

    @action(get="/predictions/{prediction}")
    def trace(self, prediction: str) -> TraceNode:
        """Walk one prediction back to features, model, approval, run, data and sources."""
        traced = self._tracing.trace(self.call.connection, prediction)
        endpoint = str(traced.facts["endpoint"])
        if not self._may_see(endpoint):
            raise self._tracing.missing(prediction)
        log = AssetRef("table", table_of(endpoint))
        hidden = self._guarded.hidden(self.call, log.key, _VALUES)
        if self._tracing.is_secret(self.call.connection, log) and not self._may(
            self.call, "tables.read", log
        ):
            hidden |= set(_VALUES)
        for name in hidden:
            traced.facts[name] = "(not for you, as you stand)"
        return traced

    def _may_see(self, endpoint: str) -> bool:
        return self._may(self.call, "assets.get", AssetRef("endpoint", endpoint))

    def _traffic(self, name: str) -> Traffic:
        return self._meters.traffic(name)
