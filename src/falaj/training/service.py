"""The actions of training: training sets, training jobs, and runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AwareDatetime, Field

from falaj.catalog.residency import Stays, anywhere
from falaj.features.exposure import FeatureSight
from falaj.features.purposes import refuse_unless
from falaj.kernel.actions import Service, action
from falaj.kernel.binary import ArrowStream
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import Forbidden, NotFound
from falaj.kernel.jobs import Job
from falaj.kernel.ports import Resource
from falaj.training.artifactfiles import FileAnswer, FileGiven, arrived
from falaj.training.artifacts import RUNS, Artifacts
from falaj.training.model import (
    DEFAULT_WORKSPACE,
    PREPARE_JOB,
    RECREATE_JOB,
    TRAIN_JOB,
    Artifact,
    ArtifactEntry,
    CodeVersion,
    DatasetInput,
    Environment,
    Experiment,
    ExperimentName,
    MetricPoint,
    ModelMetric,
    OutputModel,
    Run,
    RunDifference,
    RunPage,
    RunState,
    Stage,
    TrainingRequest,
    TrainingSet,
    TrainingSetSpec,
    Workspace,
)
from falaj.training.tracking.histories import GREATEST_STEP, SMALLEST_STEP, sampled
from falaj.training.tracking.points import Points as Columns
from falaj.training.tracking.searching import RunQuestion
from falaj.training.tuning.model import TUNE_JOB
from falaj.training.tuning.request import TuningRequest
from falaj.training.use import DataUse

if TYPE_CHECKING:
    import pyarrow as pa

    from falaj.catalog.assets import Catalog
    from falaj.kernel.jobs import Jobs
    from falaj.lake.reading import GuardedLake
    from falaj.training.costs.queueing import RunQueue
    from falaj.training.tracking.pageseal import PageSeal
    from falaj.training.tracking.runs import Runs
    from falaj.training.tracking.searching import RunSearch
    from falaj.training.training_sets import TrainingSets

Visible = Callable[[Call, Resource], bool]
"""True if the caller may know of the resource."""
May = Callable[[Call, str, Resource], bool]
"""True if the caller may do the named action on the resource."""
Limit = Annotated[int, Field(ge=1, le=1000)]
Rows = Annotated[int, Field(ge=1, le=500_000)]
RunIds = Annotated[list[str], Field(min_length=1, max_length=20)]
SetList = list[TrainingSet]
PageLimit = Annotated[int, Field(ge=1, le=50_000)]
Most = Annotated[int, Field(ge=1, le=1_000_000)]
RunList = list[Run]
Names = list[str]
ModelMetrics = list[ModelMetric]
Datasets = Annotated[list[DatasetInput], Field(max_length=1_000)]
Models = Annotated[list[str], Field(max_length=1_000)]
OutputModels = Annotated[list[OutputModel], Field(max_length=1_000)]
ExperimentList = list[Experiment]
ArtifactList = list[ArtifactEntry]
Points = list[MetricPoint]
Logged = Columns | Points
Params = dict[str, Any]
Tags = dict[str, str]


class TrainingService(Service):
    """Training: pinned training sets, and jobs that train models on them."""

    name = "training"

    def __init__(
        self,
        training_sets: TrainingSets,
        jobs: Jobs,
        catalog: Catalog,
        visible: Visible,
        may: May,
        guarded: GuardedLake,
        stays: Stays = anywhere,
        queue: RunQueue | None = None,
    ) -> None:
        self._queue = queue
        self._sets = training_sets
        self._jobs = jobs
        self._catalog = catalog
        self._visible = visible
        self._use = DataUse(catalog, may, guarded)
        self._guarded = guarded
        self._stays = stays
        self._features = FeatureSight(guarded)

    @action(post="/training/sets")
    def prepare(self, spec: TrainingSetSpec) -> Job:
        """Build a training set: a spine joined with features, pinned, and split if asked."""
        self._check_usable(spec)
        return self._jobs.submit(self.call, PREPARE_JOB, self._stated(spec))

    @action(get="/training/sets")
    def sets(self, limit: Limit = 100) -> SetList:
        """The training sets, the newest first."""
        found = self._sets.listed(self.call.connection, limit=limit)
        return [made for made in found if self._may_see(made.id)]

    @action(get="/training/sets/{training_set}", on="training_set")
    def set(self, training_set: str) -> TrainingSet:
        """One training set with everything that pins it."""
        return self._sets.get(self.call.connection, training_set)

    @action(get="/training/sets/{training_set}/rows", on="training_set")
    def rows(self, training_set: str, *, first: int = 0, limit: Rows = 10_000) -> ArrowStream:
        """Rows of a training set as an Arrow stream, in order, from number ``first`` on."""
        made = self._sets.get(self.call.connection, training_set)
        self._check_purpose(made)
        self._check_whole(made.table, todo="read the training set in")
        found = self._sets.rows(made, first, limit)
        self.call.note(n_rows=found.num_rows)
        return stream_of(found)

    @action(post="/training/sets/{training_set}/recreations", on="training_set")
    def recreate(self, training_set: str) -> Job:
        """Make a training set again and say whether it is the same to the byte."""
        made = self._sets.get(self.call.connection, training_set)
        self._check_purpose(made)
        self._check_readable(*self._sets.read_by(made.spec))
        self._check_whole(made.table, todo="recreate the training set in")
        return self._jobs.submit(self.call, RECREATE_JOB, {"training_set": training_set})

    @action(post="/training/jobs")
    def train(self, request: TrainingRequest) -> Job:
        """Train a model: training set, run, bundle, and a new version in the registry."""
        self._check_trainable(request)
        claim = None if self._queue is None else self._queue.claim(self.call, request)
        return self._jobs.submit(self.call, TRAIN_JOB, self._stated(request), claim=claim)

    @action(post="/training/tunings")
    def tune(self, request: TuningRequest) -> Job:
        """Try parameters of a trainer with Optuna, and train a version with the best of them."""
        self._check_trainable(request.training)
        # What runs side by side is claimed, so it is settled now, not by who takes the job.
        at_once = min(request.workers or len(os.sched_getaffinity(0)), request.n_trials)
        request = request.model_copy(update={"workers": at_once})
        claim = None
        if self._queue is not None:
            claim = self._queue.claim(self.call, request.training, at_once=at_once)
        return self._jobs.submit(self.call, TUNE_JOB, self._stated(request), claim=claim)

    def _check_trainable(self, request: TrainingRequest) -> None:
        """Raise unless the caller may train on what a request names."""
        if request.training_set is not None:
            made = self._sets.get(self.call.connection, request.training_set)
            self._check_readable(AssetRef("training_set", request.training_set))
            self._check_purpose(made)
            self._check_whole(made.table, todo="train on")
            made.trainable()
            self._stays(self.call.connection, "blobs", self._sets.read_by(made.spec))
        elif request.spec is not None:
            request.spec.trainable()
            self._check_usable(request.spec)
            self._stays(self.call.connection, "blobs", self._sets.read_by(request.spec))

    def _stated(self, asked: TrainingSetSpec | TrainingRequest | TuningRequest) -> dict[str, Any]:
        """A job's arguments, with the purpose for which its caller asks."""
        return {**asked.model_dump(mode="json"), "purpose": self.call.caller.purpose}

    def _check_usable(self, spec: TrainingSetSpec) -> None:
        """Raise unless the caller may make a set of this for the purpose that is stated."""
        self._check_readable(*self._sets.read_by(spec))
        pinned = self._sets.pinned(self.call.connection, spec)
        refuse_unless(pinned.purposes, self.call.caller.purpose, spec.feature_service)
        self._stays(self.call.connection, "lake", self._sets.read_by(spec))
        query = spec.spine_query
        tables = spec.tables if query is None else sorted(self._guarded.tables_of(query))
        for table in tables:
            self._check_whole(table, todo="train on")
        if not isinstance(pinned.service, str):
            self._features.check(self.call, pinned.service, "train on features made of")

    def _check_whole(self, table: str, *, todo: str) -> None:
        self._use.check_whole(self.call, table, todo=todo)

    def _check_purpose(self, made: TrainingSet) -> None:
        self._use.check_purpose(self.call, made)

    def _check_readable(self, *read: AssetRef) -> None:
        self._use.check_readable(self.call, *read)

    def _may_see(self, set_id: str) -> bool:
        ref = AssetRef("training_set", set_id)
        return self._visible(self.call, self._catalog.load(self.call.connection, ref))


def stream_of(rows: pa.Table) -> bytes:
    """A table as an Arrow stream."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue().to_pybytes())


class RunService(Service):
    """Runs: what was tried, with what, and what came of it."""

    name = "runs"

    def __init__(
        self,
        runs: Runs,
        search: RunSearch,
        catalog: Catalog,
        visible: Visible,
        may: May,
        artifacts: Artifacts,
        reproducing: Callable[[Call, Run], Job],
        pages: PageSeal,
    ) -> None:
        self._pages = pages
        self._runs = runs
        self._search = search
        self._catalog = catalog
        self._visible = visible
        self._artifacts = artifacts
        self._may = may
        self._reproducing = reproducing

    @action(post="/runs")
    def start(
        self,
        experiment: ExperimentName,
        *,
        name: str = "",
        parent: str | None = None,
        params: Params = {},  # noqa: B006 - never changed; the default of a signature
        tags: Tags = {},  # noqa: B006
        training_set: str | None = None,
        workspace: Workspace = DEFAULT_WORKSPACE,
        started_at: AwareDatetime | None = None,
        open_ended: bool = False,
        said_user: str | None = None,
        environment: Environment | None = None,
        code: CodeVersion | None = None,
    ) -> Run:
        """Begin a run of one's own; its experiment is made if it is new.

        ``experiment`` is a name or an id. An ``open_ended`` run takes values after its end too.
        """
        self._check_may_start(experiment, workspace)
        return self._runs.start(
            self.call,
            experiment=experiment,
            workspace=workspace,
            name=name,
            parent=parent,
            params=params,
            tags=tags,
            training_set=training_set,
            started_at=started_at,
            open_ended=open_ended,
            said_user=said_user,
            environment=environment,
            code=code,
        )

    @action(post="/runs/{run}/values", on="run")
    def log(
        self,
        run: str,
        *,
        params: Params = {},  # noqa: B006 - never changed; the default of a signature
        metrics: Logged = [],  # noqa: B006
        tags: Tags = {},  # noqa: B006
        of_models: ModelMetrics = [],  # noqa: B006
        workspace: Workspace | None = None,
    ) -> None:
        """Add parameters, metric values and tags to a run."""
        self._check_models(one.model for one in of_models)
        if params or len(metrics):
            self._runs.log(
                self.call,
                run,
                params=params,
                metrics=metrics,
                of_models=of_models,
                workspace=workspace,
            )
        if tags or not (params or len(metrics)):
            self._runs.tag(self.call, run, tags, workspace=workspace)

    @action(post="/runs/{run}/tag-removals", on="run")
    def untag(self, run: str, key: str, *, workspace: Workspace | None = None) -> None:
        """Take a tag away from a run."""
        self._runs.untag(self.call, run, key, workspace=workspace)

    @action(post="/runs/{run}/inputs", on="run")
    def add_inputs(
        self,
        run: str,
        *,
        datasets: Datasets = [],  # noqa: B006 - never changed; the default of a signature
        input_models: Models = [],  # noqa: B006
        output_models: OutputModels = [],  # noqa: B006
        workspace: Workspace | None = None,
    ) -> None:
        """Say which datasets and logged models went into a run, and which models came out."""
        self._check_models((one.id for one in output_models), seen=input_models)
        self._runs.add_inputs(
            self.call,
            run,
            datasets=datasets,
            input_models=input_models,
            output_models=output_models,
            workspace=workspace,
        )

    @action(post="/runs/{run}/end", on="run")
    def finish(self, run: str, *, state: RunState = RunState.FINISHED) -> Run:
        """End a run; it takes no more values then."""
        return self._runs.finish(self.call, run, state)

    @action(post="/runs/{run}", on="run")
    def update(
        self,
        run: str,
        *,
        name: str | None = None,
        state: RunState | None = None,
        ended_at: AwareDatetime | None = None,
        workspace: Workspace | None = None,
    ) -> Run:
        """Give a run another name or state."""
        return self._runs.update(
            self.call, run, name=name, state=state, ended_at=ended_at, workspace=workspace
        )

    @action(delete="/runs/{run}", on="run")
    def delete(self, run: str, *, workspace: Workspace | None = None) -> None:
        """Delete a run; it can be restored."""
        self._runs.delete(self.call, run, workspace=workspace)

    @action(post="/runs/{run}/restoration", on="run")
    def restore(self, run: str, *, workspace: Workspace | None = None) -> None:
        """Restore a run that was deleted."""
        self._runs.restore(self.call, run, workspace=workspace)

    @action(post="/runs/{run}/reproductions", on="run")
    def reproduce(self, run: str) -> Job:
        """Make a run's data, environment and model again, and say what is the same."""
        return self._reproducing(self.call, self._runs.get(self.call.connection, run))

    @action(get="/runs/{run}", on="run")
    def get(self, run: str, *, workspace: Workspace | None = None) -> Run:
        """One run with parameters, last metrics, tags, environment, code and artifacts."""
        return self._runs.get(self.call.connection, run, workspace)

    @action(get="/runs/{run}/metrics/{key:path}", on="run")
    def history(self, run: str, key: str) -> Points:
        """All values of one metric of a run, by step."""
        if not self._may_see(run):  # the route's resource is the metric, not the run
            self._runs.missing(run)
        return self._runs.history(self.call.connection, run, key)

    @action(get="/runs/{run}/series", on="run")
    def series(
        self,
        run: str,
        key: str,
        *,
        first_step: int = SMALLEST_STEP,
        last_step: int = GREATEST_STEP,
        most: Most | None = None,
        workspace: Workspace | None = None,
    ) -> Columns:
        """The values of one metric of a run as columns; at most so many, evenly spread."""
        found = self._runs.series(
            self.call.connection,
            run,
            key,
            first_step=first_step,
            last_step=last_step,
            workspace=workspace,
        )
        return found if most is None else sampled(found, most)

    @action(get="/runs")
    def list(self, experiment: str | None = None, limit: Limit = 100) -> RunList:
        """The runs, the newest first."""
        found = self._runs.listed(self.call.connection, experiment=experiment, limit=limit)
        return [run for run in found if self._may_see(run.id)]

    @action(post="/run-search", reads=True)
    def search(
        self,
        *,
        filter: str = "",
        order_by: Names = [],  # noqa: B006 - never changed; the default of a signature
        experiments: Names = [],  # noqa: B006
        stage: Stage = Stage.ACTIVE,
        limit: PageLimit = 100,
        page: str | None = None,
        workspace: Workspace = DEFAULT_WORKSPACE,
    ) -> RunPage:
        """The runs that fit a filter, in an order; `experiments` are ids, all if none is given."""
        asked = RunQuestion(
            filter=filter, order_by=tuple(order_by), experiments=tuple(experiments),
            stage=stage, workspace=workspace,
        )  # fmt: skip
        page = self._pages.open(page)
        found = self._search.page(self.call, asked, limit=limit, page=page)
        return found.model_copy(update={"next_page": self._pages.close(found.next_page)})

    @action(get="/experiments")
    def experiments(self) -> ExperimentList:
        """All experiments with the number of their runs."""
        found = self._runs.experiments(self.call.connection)
        return [one for one in found if self._visible_asset("experiment", one.id)]

    @action(get="/run-comparison")
    def compare(self, runs: RunIds) -> RunDifference:
        """Runs side by side: metrics, and what differs in parameters, data and environment."""
        for run in runs:
            if not self._may_see(run):
                self._runs.missing(run)
        return self._runs.compare(self.call.connection, runs)

    @action(get="/runs/{run}/artifacts", on="run")
    def artifacts(
        self, run: str, path: str = "", *, workspace: Workspace | None = None
    ) -> ArtifactList:
        """What lies in a folder of a run's artifacts: files, and folders inside it."""
        self._runs.standing(self.call.connection, run, workspace)
        return self._artifacts.listed(self.call.connection, RUNS, run, path)

    @action(get="/runs/{run}/artifact", on="run")
    def fetch_artifact(
        self, run: str, path: str, *, workspace: Workspace | None = None
    ) -> FileAnswer:
        """The bytes of one artifact of a run."""
        self._runs.standing(self.call.connection, run, workspace)
        found = self._artifacts.content(self.call.connection, RUNS, run, path)
        self.call.note(digest=found.artifact.digest, size=found.artifact.size)
        return found

    @action(post="/runs/{run}/artifacts", on="run")
    def keep_artifact(
        self, run: str, path: str, content: FileGiven, *, workspace: Workspace | None = None
    ) -> Artifact:
        """Keep a file as an artifact of a run that takes values; what was there is replaced."""
        self._runs.open(self.call.connection, run, workspace)
        kept = arrived(self._artifacts.streams, content)
        made = self._artifacts.keep(self.call, RUNS, run, path, kept)
        self.call.note(digest=made.digest, size=made.size)
        return made

    @action(get="/runs/{run}/artifact-place", on="run")
    def check_artifact(self, run: str, path: str, *, workspace: Workspace | None = None) -> None:
        """Answer if a file could be kept under a path as things stand; else say why not."""
        self._runs.open(self.call.connection, run, workspace)
        self._artifacts.check_place(self.call.connection, RUNS, run, path)

    @action(delete="/runs/{run}/artifacts", on="run")
    def remove_artifact(self, run: str, path: str, *, workspace: Workspace | None = None) -> int:
        """Remove an artifact of a run, or a folder of them; returns how many went."""
        self._runs.standing(self.call.connection, run, workspace)
        return self._artifacts.remove(self.call, RUNS, run, path)

    def _check_models(self, changed: Iterable[str], *, seen: Iterable[str] = ()) -> None:
        """Raise unless the caller may change these logged models, and may know of those."""
        to_change = set(changed)
        for model in sorted(to_change | set(seen)):
            ref = AssetRef("logged_model", model)
            resource = self._catalog.load(self.call.connection, ref)
            if not resource.exists or not self._may(self.call, "loggedmodels.get", resource):
                raise NotFound(
                    f"There is no logged model {model[:100]!r}.",
                    hint="`falaj loggedmodels search` shows those that are there.",
                )
            if model in to_change and not self._may(self.call, "loggedmodels.tag", resource):
                raise Forbidden(
                    f"You may not change the logged model {model[:100]!r}.",
                    hint="Ask its owner, or an administrator for a role that permits it.",
                    permission="loggedmodels.tag",
                )

    def _may_see(self, run: str) -> bool:
        return self._visible_asset("run", run)

    def _visible_asset(self, kind: str, key: str) -> bool:
        ref = AssetRef(kind, key)
        return self._visible(self.call, self._catalog.load(self.call.connection, ref))

    def _check_may_start(self, experiment: str, workspace: str) -> None:
        """Raise unless the caller may begin runs in an experiment, or in its workspace."""
        connection = self.call.connection
        found = self._runs.experiments_kept.found(connection, experiment, workspace)
        resource = Resource(AssetRef("experiment", "*"), {"workspace": workspace})
        if found is not None:
            resource = self._catalog.load(connection, AssetRef("experiment", found.id))
        if self._may(self.call, "runs.start", resource):
            return
        if found is not None and not self._visible(self.call, resource):
            self._runs.experiments_kept.missing(experiment)
        raise Forbidden(
            f"You may not begin runs in the experiment {experiment[:200]!r}.",
            hint="Ask an administrator for a role that permits it.",
            permission="runs.start",
        )
