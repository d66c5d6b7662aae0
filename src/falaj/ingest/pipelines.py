"""One load: find the files, read, type, hold to the contract, set aside, write, record.

The write is one lake transaction under an idempotency key made of what the files say and
what the definitions demand. A load that is killed at any point and done again therefore
ends as if it had run once: either its write is not there yet, or it is found by its key
and only the record is completed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow as pa

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definitions
from falaj.catalog.model import Relation
from falaj.ingest import history
from falaj.ingest.checks import NotNull, Severity
from falaj.ingest.contracts import Earlier, Judgement, judge
from falaj.ingest.declared import record_quarantine
from falaj.ingest.failing import FailingChecks, Look
from falaj.ingest.files import File, Files, Read
from falaj.ingest.model import (
    CheckResult,
    Contract,
    ContractBroken,
    LoadReport,
    LoadState,
    Mode,
    Source,
)
from falaj.ingest.openness import Openness
from falaj.ingest.personal import (
    SUBJECT,
    rule_of_quarantine,
    rule_of_source,
    subjects_of,
)
from falaj.ingest.tablechecks import hold, lookup_in
from falaj.ingest.typing import RAW, ROWS, TYPED, Bench, bench, lay_out, name
from falaj.kernel.call import AssetRef
from falaj.kernel.calls import Calls
from falaj.kernel.clock import Clock
from falaj.kernel.errors import Conflict
from falaj.kernel.ids import new_id
from falaj.kernel.jobs import JobRun
from falaj.lake.model import Snapshot
from falaj.lake.personal import record_rule, rule_of
from falaj.lake.ports import Lake
from falaj.lake.service import TABLE, record_table
from falaj.operations.alerts import Alerts

KIND = "ingest.load"
"""The kind of the job."""
_SHOWN_REASONS = 3


@dataclass(frozen=True)
class Plan:
    """What a load is going to do, read in one transaction."""

    source: Source
    contracts: list[Contract]
    files: list[File]
    content: str
    """SHA-256 of what the files say."""
    digest: str
    """SHA-256 of the content and of what the definitions demand of it."""
    key: str
    """The idempotency key of the lake write."""
    earlier: LoadReport | None
    """The load that has done all this already."""
    past: Earlier
    """What ``usual`` checks measured at earlier loads."""
    show_values: bool
    """Whether values of its rows may stand in messages and results."""


@dataclass(frozen=True)
class _Sorted:
    """Rows on their way: those to write, those set aside, what the checks found."""

    good: pa.Table
    aside: list[tuple[int, str, str]]
    judgement: Judgement
    n_read: int


class Loading:
    """The handler of the job ``ingest.load``: ``{"source": name, "again": bool}``.

    Args:
        lake: where rows are written.
        files: finds and reads the source's files.
        definitions: where sources and contracts are declared.
        catalog: where tables and lineage are recorded.
        calls: opens the transactions of the job.
        clock: the load's instant.
        alerts: where checks that used to pass and fail are told; None tells nobody.
        memory: that the work may use, such as ``2GB``; threads: of the engine.
    """

    def __init__(
        self,
        *,
        lake: Lake,
        files: Files,
        definitions: Definitions,
        catalog: Catalog,
        calls: Calls,
        clock: Clock,
        alerts: Alerts | None = None,
        memory: str = "2GB",
        threads: int = 2,
    ) -> None:
        self._lake = lake
        self._files = files
        self._definitions = definitions
        self._catalog = catalog
        self._calls = calls
        self._clock = clock
        self._failing = FailingChecks(alerts)
        self._openness = Openness(definitions, catalog, lake)
        self._memory = memory
        self._threads = threads

    def __call__(self, run: JobRun, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Load a source.

        Returns the ``LoadReport`` as JSON.

        Raises:
            SourceBroken: the files cannot be read. ContractBroken: a check of severity
                ``fail`` is broken, or no row is usable; it is recorded, nothing is written.
            Conflict: these files were appended under an earlier definition.
        """
        name = str(arguments["source"])
        again = bool(arguments.get("again", False))
        run.report(0.02, f"looking for the files of {name}")
        plan = self._planned(name, again=again)
        if plan.earlier is not None:
            same = plan.earlier.model_copy(update={"state": LoadState.UNCHANGED, "job": run.id})
            return same.model_dump(mode="json")
        run.report(0.05, f"reading {len(plan.files)} file(s)")
        read = self._files.read(plan.source, plan.files)
        run.report(0.3, f"checking {read.n_rows} rows")
        now = self._clock.now()
        done = self._lake.written(plan.key)
        rows = self._sorted(plan, read, now, before=None if done is None else done.id - 1)
        report = self._report(plan, rows, run.id, now)
        self._refuse_broken(run, plan, rows, report)
        run.report(0.7, f"writing {rows.good.num_rows} rows")
        snapshot = done or self._write(plan, rows, report, now)
        report = report.model_copy(update={"snapshot": snapshot.id})
        run.report(0.9, "recording")
        self._record(run, plan, report)
        return report.model_dump(mode="json")

    def may_show(self, connection: Any, source: Source) -> bool:
        """True if values of the rows of a source's table, whoever brought them, may be shown."""
        return self._openness.of(connection, source.table)

    def check(
        self, source: Source, contracts: Sequence[Contract], *, show_values: bool
    ) -> list[CheckResult]:
        """Hold the rows that stand in a source's table to contracts; changes nothing.

        ``show_values`` is what ``may_show`` says: its rows may be another source's.

        Raises:
            NotFound: the table has not been loaded yet.
        """
        return hold(
            self._lake,
            source.table,
            contracts,
            now=self._clock.now(),
            show_values=show_values,
            memory=self._memory,
            threads=self._threads,
        )

    def contracts_of(self, connection: Any, table: str) -> list[Contract]:
        """The contracts of a table, by name."""
        listed = self._definitions.listed(connection, kind=Contract.kind)
        parsed = [self._definitions.definition(connection, Contract.kind, v.name) for v in listed]
        return [one for one in parsed if isinstance(one, Contract) and one.table == table]

    def source(self, connection: Any, name: str) -> Source:
        """The source of that name; raises NotFound."""
        found = self._definitions.definition(connection, Source.kind, name)
        assert isinstance(found, Source)  # noqa: S101 - the kind says so
        return found

    def _planned(self, name: str, *, again: bool) -> Plan:
        with self._calls.database.reading() as connection:
            source = self.source(connection, name)
            contracts = self.contracts_of(connection, source.table)
            past = history.figures(connection, contracts, via=history.BY_LOAD)
            show = self.may_show(connection, source)
        files = self._files.found(source)
        content = _digest([file.digest for file in files])
        digest = _digest([content, source.shape(), [one.shape() for one in contracts]])
        with self._calls.database.reading() as connection:
            last = history.found(connection, name)
            same = history.found(connection, name, digest=digest)
            loaded = history.found(connection, name, content=content)
        key = f"ingest/{name}/{digest}"
        if source.mode is Mode.REPLACE:
            same = last if last is not None and last.digest == digest else None
            key += f"/{last.id if last is not None else ''}"
        elif loaded is not None and same is None and not again:
            raise Conflict(
                f"The files of {name!r} were loaded on {loaded.at:%Y-%m-%d %H:%M} UTC under an"
                " earlier definition; their rows would stand in the table twice.",
                hint="Use mode 'replace', or load with again=True if that is what you want.",
            )
        return Plan(source, contracts, files, content, digest, key, same, past, show)

    def _sorted(self, plan: Plan, read: Read, now: datetime, *, before: int | None) -> _Sorted:
        source = plan.source
        implied = _implied(source)
        contracts = [*([implied] if implied else []), *plan.contracts]
        with bench(memory=self._memory, threads=self._threads) as engine:
            lay_out(engine, source, read, now, show_values=plan.show_values)
            judgement = judge(
                engine,
                contracts,
                now=now,
                lookup=lookup_in(self._lake, before),
                earlier=plan.past,
                existing=source.table if source.mode is Mode.APPEND else None,
                show_values=plan.show_values,
            )
            aside = [
                *((row, reason, line) for row, reason, line in read.malformed),
                *_mistyped(engine),
                *_violating(engine, judgement),
            ]
            good = _good(engine, source, judgement)
        return _Sorted(good, sorted(aside), judgement, read.n_rows)

    def _report(self, plan: Plan, rows: _Sorted, job: str, now: datetime) -> LoadReport:
        return LoadReport(
            id=new_id("load"),
            source=plan.source.name,
            table=plan.source.table,
            state=LoadState.DONE,
            at=now,
            digest=plan.digest,
            files=[file.name for file in plan.files],
            n_read=rows.n_read,
            n_written=rows.good.num_rows,
            n_quarantined=len(rows.aside),
            job=job,
            checks=rows.judgement.results,
        )

    def _refuse_broken(self, run: JobRun, plan: Plan, rows: _Sorted, report: LoadReport) -> None:
        broken = rows.judgement.broken
        if not broken and rows.good.num_rows:
            return
        refused = report.model_copy(
            update={"state": LoadState.REFUSED, "n_written": 0, "n_quarantined": 0}
        )
        with self._opened(run, plan) as call:
            self._failing.follow(
                call, plan.contracts, report.checks, Look(report.id, whole=False, stands=False)
            )
            history.record(call, refused, plan.content)
            call.emit("load.refused", source=plan.source.name, load=report.id)
        if broken:
            told = "; ".join(
                f"{result.check}: {result.measured or f'{result.n_violations} rows'}"
                for result in broken[:_SHOWN_REASONS]
            )
            message = f"The rows of {plan.source.name!r} break their contract: {told}."
        elif not plan.show_values:  # reasons quote values
            message = f"No row of {plan.source.name!r} is usable: {len(rows.aside)} were set aside."
        else:
            reasons = "; ".join(f"row {row}: {why}" for row, why, _ in rows.aside[:_SHOWN_REASONS])
            message = f"No row of {plan.source.name!r} is usable: {reasons}."
        raise ContractBroken(
            message,
            hint="Nothing was written. `falaj sources results` shows every check with examples.",
            load=report.id,
        )

    def _write(self, plan: Plan, rows: _Sorted, report: LoadReport, now: datetime) -> Snapshot:
        source = plan.source
        tables = {source.table: rows.good}
        if (rule := rule_of_source(source)) is not None:
            record_rule(self._lake, rule)
        if rows.aside:
            if (rule := rule_of_quarantine(source)) is not None:
                record_rule(self._lake, rule)
            aside = _quarantined(source, rows.aside, report.id, now)
            if rule_of(self._lake, source.quarantine) is not None:  # another source's, maybe
                named = subjects_of(source, [line for _, _, line in rows.aside])
                aside = aside.append_column(SUBJECT, named)
            tables[source.quarantine] = aside
        replace = [source.table] if source.mode is Mode.REPLACE else []
        return self._lake.append_many(tables, key=plan.key, replace=replace, add_columns=True)

    def _record(self, run: JobRun, plan: Plan, report: LoadReport) -> None:
        source = plan.source
        written = [source.table, *([source.quarantine] if report.n_quarantined else [])]
        counts = {table: self._lake.count(table, report.snapshot) for table in written}
        with self._opened(run, plan) as call:
            if source.mode is Mode.APPEND and history.found(
                call.connection, source.name, digest=plan.digest
            ):
                return  # a load that ran beside this one has recorded the same write
            look = Look(report.id, whole=source.mode is Mode.REPLACE)
            self._failing.follow(call, plan.contracts, report.checks, look)
            history.record(call, report, plan.content)
            if report.n_quarantined:
                record_quarantine(call, self._catalog, source)
            for table, n_rows in counts.items():
                ref = record_table(
                    call,
                    self._catalog,
                    table,
                    snapshot=report.snapshot,
                    n_rows=n_rows,
                    owner=source.owner,
                    classification=source.classification,
                )
                self._catalog.link(call, source.ref, ref, Relation.FEEDS)
            for contract in plan.contracts:
                self._catalog.link(
                    call, contract.ref, AssetRef(TABLE, source.table), Relation.DEFINES
                )
            call.note(load=report.id, snapshot=report.snapshot, rows=report.n_written)
            call.emit(
                "table.written",
                table=source.table,
                source=source.name,
                load=report.id,
                snapshot=report.snapshot,
                n_rows=report.n_written,
            )

    def _opened(self, run: JobRun, plan: Plan) -> Any:
        return self._calls.opened(
            "sources.load",
            run.submitted_by,
            resource=str(plan.source.ref),
            arguments={"source": plan.source.name, "digest": plan.digest},
        )


def _implied(source: Source) -> Contract | None:
    """What a source's key and event time ask of each row."""
    wanted = [*source.key, *([source.event_time] if source.event_time else [])]
    checks = tuple(
        NotNull(column=column, severity=Severity.QUARANTINE) for column in dict.fromkeys(wanted)
    )
    return Contract(name=source.name, table=source.table, checks=checks) if checks else None


def _mistyped(engine: Bench) -> list[tuple[int, str, str]]:
    found = engine.execute(
        f"SELECT t._row, t._reason, to_json(raw) FROM {TYPED} t"
        f" JOIN {RAW} raw USING (_row) WHERE t._reason IS NOT NULL"
    ).fetchall()
    return [(int(row), str(reason), _without_number(line)) for row, reason, line in found]


def _violating(engine: Bench, judgement: Judgement) -> list[tuple[int, str, str]]:
    if not judgement.set_aside:
        return []
    numbers, reasons = zip(*judgement.set_aside, strict=True)
    engine.register("_aside", pa.table({"_row": pa.array(numbers, pa.int64()), "why": reasons}))
    found = engine.execute(
        f"SELECT a._row, a.why, to_json(raw) FROM _aside a JOIN {RAW} raw USING (_row)"
    ).fetchall()
    return [(int(row), str(reason), _without_number(line)) for row, reason, line in found]


def _without_number(line: str) -> str:
    values = json.loads(line)
    values.pop("_row", None)
    return json.dumps(values, ensure_ascii=False)


def _good(engine: Bench, source: Source, judgement: Judgement) -> pa.Table:
    columns = ", ".join(name(column) for column in source.stored)
    without = " ANTI JOIN _aside USING (_row)" if judgement.set_aside else ""
    return engine.execute(f"SELECT {columns} FROM {ROWS}{without} ORDER BY _row").to_arrow_table()


def _quarantined(
    source: Source, aside: Sequence[tuple[int, str, str]], load: str, now: datetime
) -> pa.Table:
    """The quarantine's rows: one form for all sources, the values as JSON text."""
    n = len(aside)
    return pa.table(
        {
            "source": pa.array([source.name] * n, pa.string()),
            "load": pa.array([load] * n, pa.string()),
            "row": pa.array([row for row, _, _ in aside], pa.int64()),
            "reason": pa.array([reason for _, reason, _ in aside], pa.string()),
            "row_values": pa.array([line for _, _, line in aside], pa.string()),
            "quarantined_at": pa.array([now] * n, pa.timestamp("us", tz="UTC")),
        }
    )


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
