"""What may be scored, by whom, into which table: checked before a job is begun."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from falaj.catalog.model import Classification
from falaj.catalog.residency import Stays, anywhere
from falaj.kernel.actions import PLATFORM
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.errors import (
    AlreadyExists,
    Conflict,
    Forbidden,
    InvalidInput,
    NotFound,
    StepUpRequired,
)
from falaj.kernel.jobs import Job
from falaj.lake.model import SchemaMismatch, table_name
from falaj.serving.anomalies import tag_columns
from falaj.serving.batch import SCORED_BY, most_secret
from falaj.serving.batchexport import TOLD
from falaj.serving.batchinputs import columns_of
from falaj.serving.batchmodel import OWN_COLUMNS, SCORE_JOB, OnError, ScoreRequest
from falaj.serving.batchoutputs import check_columns
from falaj.serving.batchpart import at_of, missing_field

if TYPE_CHECKING:
    from falaj.catalog.assets import Catalog
    from falaj.ingest.files import Files
    from falaj.kernel.jobs import Jobs
    from falaj.lake.ports import Lake
    from falaj.lake.reading import GuardedLake
    from falaj.serving.model import Release
    from falaj.serving.releases import Releases

May = Callable[[Call, str, AssetRef], bool]
"""True if the caller may do the named action on an asset, as the caller stands now."""
_KEPT = ("predictions_", "training_set_", "rows_", "feature_reads", "quarantine")
"""Names of tables that the platform writes itself."""


class Scorings:
    """Begins scoring jobs.

    Args:
        releases: tell what serves.
        lake, files: where inputs and outputs lie.
        catalog: knows whose tables are, and how secret.
        jobs: takes the job.
        may: asks the policy.
        guarded: knows what callers see of tables.
        stays: keeps data in its region.
    """

    def __init__(
        self,
        releases: Releases,
        lake: Lake,
        files: Callable[[], Files],
        catalog: Catalog,
        jobs: Jobs,
        may: May,
        guarded: GuardedLake,
        stays: Stays = anywhere,
    ) -> None:
        self._releases = releases
        self._lake = lake
        self._files = files
        self._catalog = catalog
        self._jobs = jobs
        self._may = may
        self._guarded = guarded
        self._stays = stays

    def begin(
        self,
        call: Call,
        endpoint: str,
        *,
        to: str,
        table: str | None,
        snapshot: int | None,
        files: Sequence[str],
        at: str | None,
        keys: Sequence[str],
        on_error: OnError,
        classification: Classification | None,
        parquet: str | None,
    ) -> Job:
        """Submit a scoring of a table or of files with the release that serves now.

        Raises:
            NotFound: there is no such endpoint or table. Conflict: nothing serves.
            InvalidInput: a field or a column is missing, or the input is named wrongly.
            Forbidden, StepUpRequired: the caller may not read the input, or not now.
            AlreadyExists, SchemaMismatch: the output table holds something else.
        """
        release = self._releases.active(call.connection, endpoint)
        if release is None:
            raise Conflict(
                f"Nothing serves at {endpoint!r}.",
                hint=f"Deploy a release: `falaj endpoints deploy {endpoint} --activate`.",
            )
        if not self._may(call, "endpoints.predict", AssetRef("endpoint", endpoint)):
            raise Forbidden(f"You may not ask {endpoint!r} for predictions.")
        if (table is None) == (not files):
            raise InvalidInput(
                "A scoring has one input: a table, or files.", hint="Give --table or --files."
            )
        if table is not None:
            columns, level = self._table(call, table, snapshot)
            snapshot = self._lake.latest() if snapshot is None else snapshot
        else:
            snapshot = None
            files, columns = self._found(call, files)
            level = classification or Classification.PERSONAL
        told = table or ", ".join(files)
        self._check_columns(release, told, columns, keys, at)
        read = _read(release, columns, keys, at)
        self._check_kept(call, endpoint, table, read, to_file=parquet is not None)
        of_endpoint = self._catalog.get(call.connection, AssetRef("endpoint", endpoint))
        secret = most_secret(level, classification, of_endpoint.classification)
        self._check_output(call, endpoint, to, [*OWN_COLUMNS, *keys, *_outputs(release)])
        if parquet is not None:
            self._check_file(call, parquet)
        request = ScoreRequest(
            endpoint=endpoint,
            release=release.id,
            to=to,
            table=table,
            snapshot=snapshot,
            files=tuple(files),
            at=at,
            keys=tuple(keys),
            read=read,
            on_error=on_error,
            classification=secret,
            parquet=parquet,
        )
        call.note(release=release.id, to=to, input=told[:300])
        return self._jobs.submit(call, SCORE_JOB, request.model_dump(mode="json"))

    def _table(
        self, call: Call, table: str, snapshot: int | None
    ) -> tuple[list[str], Classification | None]:
        """The columns and the classification of a table that the caller may read."""
        ref = AssetRef("table", table)
        if not self._catalog.exists(call.connection, ref) or not self._may(call, "assets.get", ref):
            raise NotFound(
                f"There is no table {table!r} that you may see.",
                hint="`falaj tables list` shows those that there are.",
            )
        if not self._may(call, "tables.read", ref):
            raise Forbidden(
                f"You may not score {table!r} as you stand: you may not read it.",
                hint="Personal data needs a purpose and a second factor from the last five"
                " minutes; else ask its owner for access.",
            )
        schema = self._lake.schema(table, snapshot)
        return list(schema.names), self._catalog.get(call.connection, ref).classification

    def _found(self, call: Call, patterns: Sequence[str]) -> tuple[list[str], list[str]]:
        """The files of some patterns, and the columns that all of them have."""
        if not self._may(call, "sources.load", AssetRef(PLATFORM, "*")):
            raise Forbidden(
                "You may not score files: you may not load any.",
                hint="Score a table, or ask for the role ml_engineer.",
            )
        found = self._files()
        paths = [
            str(path.resolve()) for pattern in patterns for path in found.matching(pattern, TOLD)
        ]
        paths = list(dict.fromkeys(paths))
        first = columns_of(paths[0])
        for path in paths[1:]:
            other = columns_of(path)
            if set(other) != set(first):
                odd = sorted(set(other) ^ set(first))[0]
                raise InvalidInput(
                    f"The files {paths[0]} and {path} differ: one of them lacks {odd!r}.",
                    hint="Score files of different columns one after the other.",
                )
        suffixes = {path.rpartition(".")[2] == "csv" for path in paths}
        if len(suffixes) > 1:
            raise InvalidInput("CSV files cannot be scored together with others.")
        return paths, first

    def _check_kept(
        self, call: Call, endpoint: str, table: str | None, read: Sequence[str], *, to_file: bool
    ) -> None:
        """Raise unless the caller sees what is read in clear, and it stays in its region."""
        made_of = [AssetRef("endpoint", endpoint)]
        if table is not None:
            self._guarded.check_clear(call, table, read, todo="score")
            made_of.append(AssetRef("table", table))
        for place in ("lake", "home") if to_file else ("lake",):
            self._stays(call.connection, place, made_of)

    def _check_columns(
        self, release: Release, told: str, columns: list[str], keys: Sequence[str], at: str | None
    ) -> None:
        lacking = missing_field(release, columns)
        if lacking is not None:
            raise InvalidInput(
                f"{told} lacks the field {lacking!r} that {release.endpoint!r} takes.",
                hint=f"It has {', '.join(columns)}.",
                field=lacking,
            )
        for key in keys:
            if key not in columns:
                raise InvalidInput(
                    f"{told} has no column {key!r} to be carried.",
                    hint=f"It has {', '.join(columns)}.",
                )
        at_of(at, columns)
        check_columns(keys, _outputs(release))

    def _check_output(self, call: Call, endpoint: str, to: str, columns: Sequence[str]) -> None:
        """Raise unless the output table is new, or holds scorings of the same form."""
        table_name(to)
        if to.startswith(_KEPT):
            raise InvalidInput(
                f"The platform keeps names such as {to!r} for its own tables.",
                hint="Choose another, such as scores_october.",
            )
        ref = AssetRef("table", to)
        there = self._lake.exists(to)
        if not there and not self._catalog.exists(call.connection, ref):
            return
        known = self._catalog.exists(call.connection, ref)
        attributes = self._catalog.get(call.connection, ref).attributes if known else {}
        if attributes.get(SCORED_BY) != endpoint:
            raise AlreadyExists(
                f"There is a table {to!r} that holds no scorings of {endpoint!r}.",
                hint="Name another table for the output.",
            )
        if there and set(self._lake.schema(to).names) != set(columns):
            odd = sorted(set(self._lake.schema(to).names) ^ set(columns))
            raise SchemaMismatch(
                f"The table {to!r} has other columns than this scoring: {', '.join(odd)}.",
                hint="Name another table, or carry the same keys as before.",
                columns=odd,
            )

    def _check_file(self, call: Call, parquet: str) -> None:
        if not call.caller.stepped_up(call.now):
            raise StepUpRequired(
                "Writing rows to a file outside of the lake needs a fresh second factor.",
                hint="Repeat it with a one-time code (`falaj --code 123456 …`).",
            )
        if not parquet.endswith(".parquet"):
            raise InvalidInput(f"{parquet!r} does not end in .parquet.", hint="Name it so.")
        self._files().target(parquet, TOLD, unless=lambda _path: False)


def _outputs(release: Release) -> tuple[str, ...]:
    """The columns that a release gives: its outputs, and their tags where it has them."""
    return (*release.outputs, *tag_columns(release))


def _read(
    release: Release, columns: Sequence[str], keys: Sequence[str], at: str | None
) -> tuple[str, ...]:
    """The columns of an input that are read: fields, those that are carried, and the instant."""
    named = {*(item.name for item in release.fields), *keys, at}
    return tuple(name for name in columns if name in named)
