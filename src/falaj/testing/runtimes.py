"""What every model ``Runtime`` must do; an adapter's test inherits ``RuntimeSuite``."""
# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from falaj.kernel.errors import Corrupt, FalajError, InvalidInput
from falaj.serving.model import ServableModel
from falaj.serving.ports import Runtime


class RuntimeSuite:
    """Inherit it and give the two fixtures.

    ``runtime`` is the adapter; ``model`` a binary classifier of a format that it knows,
    with one output and at least two inputs, that bears missing values.
    """

    @pytest.fixture
    def runtime(self) -> Runtime:
        """The adapter."""
        raise NotImplementedError

    @pytest.fixture
    def model(self) -> ServableModel:
        """A binary classifier."""
        raise NotImplementedError

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
        with pytest.raises(Corrupt):
            runtime.load(replace(model, model=b"\x80\x04K\x01."))

    def test_a_bundle_that_names_other_columns_or_outputs_is_refused(
        self, runtime: Runtime, model: ServableModel
    ) -> None:
        with pytest.raises(InvalidInput):
            runtime.load(replace(model, inputs=(*model.inputs, "more")))
        with pytest.raises(InvalidInput):
            runtime.load(replace(model, outputs=("one", "two", "three")))
