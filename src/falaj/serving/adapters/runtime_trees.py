"""ONNX models that are ensembles of trees, scored by compiled loops of our own.

A new model is loaded by the runtime that this one wraps, and answered by it at first.
When a model has been asked a few times, a thread reads its trees, loads (or, once for an
installation, compiles) the loops, compares their scores with those of the wrapped runtime
and takes over. So no answer waits for a compiler, and a command that asks once never
loads one. A model that is no ensemble of trees stays with the wrapped runtime. Trees that passed
the comparison are kept (``KeptTrees``): where the loops are in memory, a model that was here before
is answered by them at once, and the wrapped runtime loads it only if it is needed after all.
"""

from __future__ import annotations

import gc
import threading
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from falaj.kernel.errors import Corrupt
from falaj.kernel.telemetry import logger
from falaj.serving.trees.ensemble import NotCompilable
from falaj.serving.trees.scorer import loops_are_loaded
from falaj.serving.yielding import yielding

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from falaj.serving.adapters.kept_trees import KeptTrees
    from falaj.serving.model import ServableModel
    from falaj.serving.ports import LoadedModel, Runtime
    from falaj.serving.trees.scorer import Laid, TreeScorer

log = logger(__name__)

AFTER_RUNS = 20
"""A model is compiled once it has been asked so often; warming it takes three."""

_compiling = threading.Lock()
"""One model of this process is compiled at a time."""


class TreeRuntime:
    """Loads ONNX models; ensembles of trees are scored by compiled loops.

    Args:
        wrapped: loads every model, and runs those that are not compiled.
        after_runs: compile a model when it has been asked so often; at 0 ``load`` returns
            when it is compiled.
        kept: trees of models that were compiled before.
    """

    def __init__(
        self,
        wrapped: Runtime,
        *,
        after_runs: int = AFTER_RUNS,
        kept: Callable[[], KeptTrees] | None = None,
    ) -> None:
        self.formats: tuple[str, ...] = wrapped.formats
        self._wrapped = wrapped
        self._after_runs = after_runs
        self._kept = kept

    def load(self, model: ServableModel) -> TreeModel:
        """The model, ready to run; see ``Runtime.load``."""
        kept = self._kept() if self._kept is not None else None
        if kept is not None and loops_are_loaded():
            blocks = kept.find(model.model, len(model.outputs))
            if blocks is not None:
                return TreeModel.of_kept(blocks, lambda: self._wrapped.load(model))
        loaded = TreeModel(self._wrapped.load(model), model, after_runs=self._after_runs, kept=kept)
        if self._after_runs == 0:
            loaded.compile()
        return loaded


class TreeModel:
    """A model that begins in another runtime and goes on in compiled loops."""

    def __init__(
        self,
        wrapped: LoadedModel,
        model: ServableModel | None,
        *,
        after_runs: int,
        kept: KeptTrees | None = None,
    ) -> None:
        self.n_inputs = wrapped.n_inputs
        self._kept = kept
        self.compiled = False
        """Whether the compiled loops answer."""
        self._wrapped = wrapped
        self._model: ServableModel | None = model
        self._runs_left = after_runs
        self._starting = threading.Lock()
        self._scorer: TreeScorer | None = None

    @classmethod
    def of_kept(cls, blocks: Laid, load: Callable[[], LoadedModel]) -> TreeModel:
        """A model whose trees were compared with its own scores before.

        Args:
            load: loads it in the wrapped runtime, if it is needed.
        """
        from falaj.serving.trees.scorer import TreeScorer

        made = cls(_Later(blocks.n_features, load), None, after_runs=0)
        made._scorer, made.compiled = TreeScorer(blocks), True
        return made

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """Outputs [n, k]; see ``LoadedModel.run``."""
        scorer = self._scorer
        if scorer is None:
            if self._runs_left:
                self._count()
            return self._wrapped.run(rows)
        if rows.ndim != 2:
            return self._wrapped.run(rows)  # which says what is wrong with them
        if not rows.flags.carray or rows.dtype != np.float32:
            # The loops are compiled for one kind of array. To be asked with another costs far
            # more than a copy, and nobody would notice.
            rows = np.require(rows, np.float32, ["C", "A", "W"])
        return scorer.run(rows)

    def _count(self) -> None:
        with self._starting:
            if not self._runs_left:
                return
            self._runs_left -= 1
            if self._runs_left:
                return
        threading.Thread(target=self._compile_aside, name="compile-trees").start()

    def _compile_aside(self) -> None:
        with yielding():
            self.compile()
            # The first model brings libraries with it, which stay: a garbage collector that
            # looks them through stops all answers for 60 ms.
            _frozen()

    def compile(self) -> bool:
        """Compile the model here and now; returns whether its loops answer from now on."""
        with _compiling:
            model, self._model = self._model, None
            if model is not None:
                self._scorer = _scorer(self._wrapped, model, self._kept)
                self.compiled = self._scorer is not None
        return self.compiled


@cache
def _frozen() -> None:
    gc.freeze()


class _Later:
    """A model that is loaded when it is first run."""

    def __init__(self, n_inputs: int, load: Callable[[], LoadedModel]) -> None:
        self.n_inputs = n_inputs
        self._load = load
        self._loading = threading.Lock()
        self._loaded: LoadedModel | None = None

    def run(self, rows: NDArray[np.float32]) -> NDArray[np.floating[Any]]:
        """See ``LoadedModel.run``."""
        with self._loading:
            loaded = self._loaded = self._loaded or self._load()
        return loaded.run(rows)


def _scorer(
    wrapped: LoadedModel, model: ServableModel, kept: KeptTrees | None
) -> TreeScorer | None:
    """The compiled model; None, and a line in the log, where it stays with ``wrapped``."""
    from falaj.serving.trees.checking import difference, hard_rows
    from falaj.serving.trees.graphs import read_graph
    from falaj.serving.trees.scorer import TreeScorer, laid

    facts = dict(model.facts)
    try:
        known = kept.find(model.model, len(model.outputs)) if kept is not None else None
        if known is not None:
            return TreeScorer(known)
        graph = read_graph(model.model, wrapped.n_inputs, len(model.outputs))
        blocks = laid(graph)
        scorer = TreeScorer(blocks)
        apart = difference(scorer.run, wrapped.run, hard_rows(graph.trees))
        if apart:
            raise Corrupt(
                f"The compiled trees differ from the model's own scores by {apart:.3g}.",
                hint="It stays with the runtime that loaded it; please report it.",
            )
    except NotCompilable as reason:
        log.info("model_not_compiled", reason=reason.message, **facts)
        return None
    except Exception as error:  # a fault of the compiler must not take a good model away
        log.exception("model_not_compiled", reason=str(error)[:500], **facts)
        return None
    log.info("model_compiled", kind=scorer.kind, trees=graph.trees.n_trees, **facts)
    if kept is not None:
        kept.keep(model.model, len(model.outputs), blocks)
    return scorer
