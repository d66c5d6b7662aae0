"""A run of somebody's own code, as that code holds it: ``with platform.training.run(…) as run``."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from falaj.interfaces.sdksender import MetricSender, Value, ValuesNotSent
from falaj.kernel.errors import FalajError, InvalidInput, NotFound
from falaj.training.model import RunState

if TYPE_CHECKING:
    from falaj.training.model import Run
    from falaj.training.service import RunService
    from falaj.training.systemmetrics import SystemSampler

ERROR_TAG = "falaj.error"
"""The tag of a run that says why it failed."""
_LONGEST_REASON = 2_000
_LONGEST_NAME = 250
Begin = Callable[..., "LiveRun"]
"""Begins another run with the arguments of ``platform.training.run``."""


class LiveRun:
    """A run that goes on in this process.

    Use it as a context manager: left without an error it ends as finished, left by an error
    as failed with the reason in its tag ``falaj.error``, left by Ctrl-C as killed. Metric
    values go in batches from a thread of their own; when the run has ended they are there.
    Parameters and tags are there when the call returns. Threads may share a run; a process
    that was forked off may not: it opens the platform again and takes the run up by its id.
    """

    def __init__(
        self,
        started: Run,
        runs: RunService,
        begin: Begin,
        *,
        ends: bool = True,
        sender: MetricSender | None = None,
    ) -> None:
        """Made by ``platform.training.run`` and ``resume``.

        Args:
            started: the run as the platform has it.
            runs: the actions of runs.
            begin: begins a nested run.
            ends: False if leaving the ``with`` block does not end the run.
            sender: of its metric values.
        """
        self.id = started.id
        self.experiment = started.experiment
        self.name = started.name
        self._runs: Any = runs  # the face of a service takes an idempotency key besides
        self._begin = begin
        self._ends = ends
        self._sender = sender or MetricSender(self._send)
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._next_steps: dict[str, int] = {}
        self._sampler: SystemSampler | None = None
        self._over = False

    def __repr__(self) -> str:
        return f"<run {self.id} ({self.name}) of {self.experiment}>"

    @property
    def is_over(self) -> bool:
        """True once it has ended here."""
        return self._over

    @property
    def is_foreign(self) -> bool:
        """True in a process that was forked off from the one that began it."""
        return os.getpid() != self._process

    def log(
        self,
        metrics: Mapping[str, Any] | None = None,
        /,
        *,
        step: int | None = None,
        at: datetime | None = None,
        **more: Any,
    ) -> None:
        """Log values of metrics: ``run.log(loss=0.3, step=4)``.

        Args:
            metrics, more: numbers by name; NaN and infinities are kept as they are.
            step: the same for all of them; without it each metric counts its own from 0.
            at: when they were measured, with a zone; now if it is not given.

        Raises:
            InvalidInput: a value is no number, a name is empty or longer than 250
                characters, or the run has ended.
            ValuesNotSent: values that were logged before could not be sent.
        """
        self._check_open()
        instant = time.time() if at is None else _aware(at).timestamp()
        given = {**(metrics or {}), **more}
        self._add({_checked(key): _number(key, value) for key, value in given.items()},
                  step, instant)  # fmt: skip

    def param(self, params: Mapping[str, Any] | None = None, /, **more: Any) -> None:
        """Record parameters; each is written once. Raises Conflict for another value."""
        self._check_open()
        self._runs.log(self.id, params={**(params or {}), **more})

    def tag(self, tags: Mapping[str, str] | None = None, /, **more: str) -> None:
        """Set tags; an older value of the same key is replaced."""
        self._check_process()
        given = {**(tags or {}), **more}
        self._runs.log(self.id, tags={key: str(value) for key, value in given.items()})

    def artifact(self, source: Path | str | bytes, path: str | None = None) -> None:
        """Keep a file, or bytes, as an artifact; what lay under its path before is replaced.

        Args:
            source: the path of a file, or the bytes themselves.
            path: under which it is kept (``plots/roc.png``); a file's own name if not given.

        Raises:
            NotFound: there is no such file. InvalidInput: bytes without a path.
            LimitExceeded: it is larger than a server takes in one call.
        """
        self._check_open()
        if isinstance(source, bytes):
            if path is None:
                raise InvalidInput("Bytes have no name.", hint='Give one: path="plots/roc.png".')
            content = source
        else:
            file = Path(source)
            try:
                content = file.read_bytes()
            except OSError as error:
                raise NotFound(
                    f"The file {file} cannot be read: {error.strerror}.", hint="Check its path."
                ) from None
            path = path or file.name
        self._runs.keep_artifact(self.id, path, content)

    def nested(self, name: str = "", **arguments: Any) -> LiveRun:
        """Begin a run within this one, of the same experiment.

        Args:
            name: of the new run.
            arguments: as those of ``platform.training.run``.
        """
        self._check_open()
        return self._begin(self.experiment, name=name, parent=self.id, **arguments)

    def flush(self) -> None:
        """Return when every value that was logged is there; raises ValuesNotSent."""
        self._check_open()
        self._sender.flush()

    def sample_system(self, every_seconds: float) -> None:
        """Log the machine's figures as ``system/…`` every so many seconds until the end.

        Raises:
            NoSystemMetrics: psutil is not installed.
        """
        from falaj.training.systemmetrics import SystemSampler

        self._check_open()
        self._sampler = SystemSampler(self._sampled, every_seconds=every_seconds)

    def end(self, state: RunState | str = RunState.FINISHED, *, reason: str = "") -> None:
        """End the run, once all its values are there; a second time does nothing.

        Args:
            state: ``finished``, ``failed`` or ``killed``.
            reason: why, kept as the tag ``falaj.error``.

        Raises:
            ValuesNotSent: values could not be sent; the run then ends as failed.
        """
        self._check_process()
        with self._lock:
            if self._over:
                return
            self._over = True
        lacking = self._closed()
        if lacking is not None:
            state, reason = RunState.FAILED, reason or str(lacking)
        try:
            if self._ends or lacking is not None:
                self._ended(RunState(state), reason)
        except FalajError as error:
            if lacking is None:
                raise
            lacking.add_note(f"Nor could the run be ended: {error}")
        if lacking is not None:
            raise lacking

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self.is_foreign or self._over:
            return
        if error is None:
            self.end()
            return
        killed = not isinstance(error, Exception)  # KeyboardInterrupt, SystemExit
        self._ends = True
        try:
            self.end(RunState.KILLED if killed else RunState.FAILED, reason=told(error))
        except FalajError as failure:
            error.add_note(f"The run {self.id} could not be ended as it should: {failure}")

    def _closed(self) -> FalajError | None:
        """Stop the threads; what could not be sent or sampled, if anything."""
        lacking: FalajError | None = None
        try:
            if self._sampler is not None:
                self._sampler.stop()
        except FalajError as error:
            lacking = error
        try:
            self._sender.close()
        except ValuesNotSent as error:
            lacking = error
        return lacking

    def _ended(self, state: RunState, reason: str) -> None:
        if reason:
            self._runs.log(self.id, tags={ERROR_TAG: reason[:_LONGEST_REASON]})
        self._runs.finish(self.id, state=state)

    def _send(self, values: Sequence[Value], key: str) -> None:
        columns = {
            "key": [value.key for value in values],
            "step": [value.step for value in values],
            "at": [round(value.at * 1e6) for value in values],
            "value": [value.value for value in values],
        }
        self._runs.log(self.id, metrics=columns, idempotency_key=key)

    def _sampled(self, figures: Mapping[str, float]) -> None:
        self._add(figures, None, time.time())

    def _add(self, numbers: Mapping[str, float], step: int | None, instant: float) -> None:
        with self._lock:
            values = [
                Value(key, number, self._step(key, step), instant)
                for key, number in numbers.items()
            ]
        self._sender.add(values)

    def _step(self, key: str, given: int | None) -> int:
        step = self._next_steps.get(key, 0) if given is None else int(given)
        self._next_steps[key] = step + 1
        return step

    def _check_open(self) -> None:
        self._check_process()
        if self._over:
            raise InvalidInput(f"The run {self.id} has ended.", hint="Begin another one.")

    def _check_process(self) -> None:
        if self.is_foreign:
            raise InvalidInput(
                f"The run {self.id} belongs to the process {self._process}, from which this one"
                " was forked off.",
                hint=f'Open the platform here and take the run up: platform.training.resume("'
                f'{self.id}").',
            )


def told(error: BaseException) -> str:
    """Why a run failed: the error's kind and what it says."""
    said = str(error)
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _checked(key: str) -> str:
    if not isinstance(key, str) or not 1 <= len(key) <= _LONGEST_NAME:
        raise InvalidInput(
            f"A metric cannot be named {str(key)[:50]!r}.",
            hint=f"Use a text of 1 to {_LONGEST_NAME} characters.",
        )
    return key


def _number(key: str, value: Any) -> float:
    """A number, or what numpy and torch give for one."""
    try:
        if isinstance(value, str | bytes):
            raise TypeError("it is text")
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidInput(
            f"The value of the metric {key!r} is no number: {error}.",
            hint="Log one number; keep text as a parameter or a tag.",
        ) from None


def _aware(at: datetime) -> datetime:
    if at.tzinfo is None:
        raise InvalidInput(
            f"The instant {at.isoformat()} has no zone.", hint="Give one: datetime.now(UTC)."
        )
    return at
