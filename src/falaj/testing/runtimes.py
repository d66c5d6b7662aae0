"""What every model ``Runtime`` must do; an adapter's test inherits ``RuntimeSuite``."""
# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from falaj.kernel.errors import Corrupt, FalajError, InvalidInput
from falaj.serving.model import ServableModel
from falaj.serving.ports import Runtime

_SPRUNG: list[str] = []


def spring(word: str) -> None:
    """Notes that a trap was sprung; what a pickle of ``Trap`` calls."""
    _SPRUNG.append(word)


class Trap:
    """A pickle of this notes that it was unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return spring, ("unpickled",)


class RuntimeSuite:
    """Inherit it and give the two fixtures.

    ``runtime`` is the adapter; ``model`` a binary classifier of a format that it knows,
    with one output and at least two inputs, that bears missing values. With ``native`` too
    (the library's own way to predict), answers are compared with it.
    """

    @pytest.fixture
    def runtime(self) -> Runtime:
        """The adapter."""
        raise NotImplementedError

    @pytest.fixture
    def model(self) -> ServableModel:
        """A binary classifier."""
        raise NotImplementedError

    @pytest.fixture
    def native(self) -> Callable[[np.ndarray], np.ndarray] | None:
        """Takes rows [n, f] to the probabilities [n] of the library itself."""
        return None

    def rows(self, model: ServableModel, n: int) -> np.ndarray:
        """Distinct input rows."""
        random = np.random.default_rng(n)
        return random.normal(size=(n, len(model.inputs))).astype(np.float32)

    def test_it_gives_one_probability_for_each_row(
        self, runtime: Runtime, model: ServableModel
    ) -> None:
        loaded = runtime.load(model)
        assert loaded.n_inputs == len(model.inputs)
        scores = loaded.run(self.rows(model, 50))
        assert scores.shape == (50, 1)
        assert np.all((scores >= 0) & (scores <= 1))
        assert len(np.unique(scores)) > 1

    def test_a_row_is_scored_the_same_alone_and_in_a_batch(
        self, runtime: Runtime, model: ServableModel
    ) -> None:
        loaded = runtime.load(model)
        rows = self.rows(model, 20)
        alone = np.concatenate([loaded.run(rows[i : i + 1]) for i in range(20)])
        np.testing.assert_allclose(loaded.run(rows), alone, atol=1e-6)

    def test_a_missing_value_is_borne(self, runtime: Runtime, model: ServableModel) -> None:
        rows = self.rows(model, 3)
        rows[1, 0] = np.nan
        rows[2, :] = np.nan
        assert np.isfinite(runtime.load(model).run(rows)).all()

    def test_it_answers_as_its_own_library_does(
        self,
        runtime: Runtime,
        model: ServableModel,
        native: Callable[[np.ndarray], np.ndarray] | None,
    ) -> None:
        if native is None:
            pytest.skip("the library has no other way to predict")
        loaded = runtime.load(model)
        rows = self.rows(model, 400)
        rows[::3, 0] = np.nan
        rows[::7, 1] = 0.0
        rows[5, :] = np.nan
        rows[6, :] = np.inf
        wanted = np.asarray(native(rows), dtype=np.float64)
        np.testing.assert_allclose(loaded.run(rows)[:, 0], wanted, atol=1e-5)
        alone = [float(loaded.run(rows[place : place + 1])[0, 0]) for place in range(30)]
        np.testing.assert_allclose(alone, wanted[:30], atol=1e-5)

    def test_rows_of_another_width_are_refused_and_the_next_are_scored(
        self, runtime: Runtime, model: ServableModel
    ) -> None:
        loaded = runtime.load(model)
        rows = self.rows(model, 4)
        for wrong in (rows[:, :-1], np.hstack([rows, rows]), rows[0]):
            with pytest.raises(FalajError):
                loaded.run(np.ascontiguousarray(wrong))
        assert loaded.run(rows).shape == (4, 1)

    def test_rows_that_lie_apart_in_memory_are_scored_as_they_read(
        self, runtime: Runtime, model: ServableModel
    ) -> None:
        loaded = runtime.load(model)
        rows = self.rows(model, 12)
        wanted = loaded.run(np.ascontiguousarray(rows[::2]))
        np.testing.assert_array_equal(loaded.run(rows[::2]), wanted)
        np.testing.assert_array_equal(loaded.run(np.asfortranarray(rows[::2])), wanted)

    def test_single_rows_on_many_threads_do_not_mix(
        self, runtime: Runtime, model: ServableModel
    ) -> None:
        loaded = runtime.load(model)
        rows = self.rows(model, 200)
        wanted = loaded.run(rows)[:, 0]
        with ThreadPoolExecutor(4) as pool:
            got = list(
                pool.map(lambda place: loaded.run(rows[place : place + 1])[0, 0], range(200))
            )
        np.testing.assert_allclose(got, wanted, atol=1e-6)

    def test_it_runs_on_many_threads_at_once(self, runtime: Runtime, model: ServableModel) -> None:
        loaded = runtime.load(model)
        batches = [self.rows(model, n) for n in range(1, 30)]
        wanted = [loaded.run(batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            for got, want in zip(pool.map(loaded.run, batches), wanted, strict=True):
                np.testing.assert_array_equal(got, want)

    def test_bytes_that_are_no_model_are_refused(
        self, runtime: Runtime, model: ServableModel
    ) -> None:
        for data in (b"", b"not a model", model.model[: len(model.model) // 2]):
            with pytest.raises(FalajError):
                runtime.load(replace(model, model=data))
        for protocol in (0, 2, 4):
            with pytest.raises(Corrupt):
                runtime.load(replace(model, model=pickle.dumps(Trap(), protocol)))
        assert not _SPRUNG

    def test_a_bundle_that_names_other_columns_or_outputs_is_refused(
        self, runtime: Runtime, model: ServableModel
    ) -> None:
        with pytest.raises(InvalidInput):
            runtime.load(replace(model, inputs=(*model.inputs, "more")))
        with pytest.raises(InvalidInput):
            runtime.load(replace(model, outputs=("one", "two", "three")))
