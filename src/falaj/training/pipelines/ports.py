"""What the engine of pipelines needs of the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from falaj.kernel.call import Call
    from falaj.training.pipelines.frames import Packed

Ask = Callable[[str, list[Any], dict[str, Any]], Any]
"""Calls an action of the platform, as the run's principal: name, values, named values."""

AskOnce = Callable[[str, list[Any], dict[str, Any], str], Any]
"""``Ask``, with an idempotency key."""


@dataclass(frozen=True)
class StepTask:
    """One step, ready to be run: texts and packed values, nothing that needs the platform."""

    step: str
    function: str
    source: str
    modules: Mapping[str, str]
    inputs: Mapping[str, Packed]
    outputs: tuple[str, ...]
    platform: str = ""
    """The argument that is given the platform; empty if none is."""
    timeout_seconds: float = 3600.0

    def told(self) -> dict[str, Any]:
        """As a frame for the process."""
        return {
            "step": self.step,
            "function": self.function,
            "source": self.source,
            "modules": dict(self.modules),
            "inputs": dict(self.inputs),
            "outputs": list(self.outputs),
            "platform": self.platform,
        }


@dataclass(frozen=True)
class StepAnswer:
    """What a step gave, packed, and what it used."""

    outputs: Mapping[str, Packed]
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_bytes: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)


class StepRunner(Protocol):
    """Runs steps of one run in processes of their own, some at a time.

    Guarantees of every adapter:

    - A step's text runs in a process that holds no secret of the platform, has the memory that
      it was opened with, and is ended with this one.
    - What a step raises is raised here: ``StepFailed`` with the line, or the platform's own
      error where the platform refused it. A process that was lost is ``StepLost``.
    - ``run`` may be called from several threads, as many as ``slots``.
    """

    def run(self, task: StepTask, ask: Ask | None) -> StepAnswer:
        """Run one step.

        Raises:
            StepFailed, StepLost, StepTimedOut, and what the platform raised.
        """
        ...

    def stop(self) -> None:
        """End what runs: whoever waits in ``run`` gets StepLost. May be called at any time."""
        ...

    def close(self) -> None:
        """End all processes and remove their folders."""
        ...


OpenRunner = Callable[[str, int, int | None], StepRunner]
"""Opens a runner: on which compute, how many steps at a time, how much memory each."""


class Surroundings(Protocol):
    """What a run does on the platform, as its principal; wiring fulfils it."""

    def asking(self, principal: str, purpose: str | None) -> AskOnce:
        """Calls actions as a principal as it stands now, each under an idempotency key.

        Raises:
            Forbidden: the account is not active any more.
        """
        ...

    def check_runs(self, call: Call, pipeline: str) -> None:
        """Return if the call's principal, as it stands now, may run the pipeline.

        Raises:
            Forbidden: it may not, or its account is not active any more.
        """
        ...

    def read(self, call: Call, table: str, columns: tuple[str, ...] | None) -> None:
        """Return if the call's principal may read a table whole and in clear, for a run.

        Raises:
            Forbidden, SeenInPart: it may not. PersonalRows: persons' rows stand in it.
        """
        ...

    def written(self, call: Call, pipeline: str, table: str, inputs: set[str]) -> None:
        """Record that a pipeline writes a table, which is classified as its inputs are.

        Raises:
            Forbidden: the call's principal, as it stands now, may not write it.
            Conflict: the table is somebody else's.
        """
        ...
