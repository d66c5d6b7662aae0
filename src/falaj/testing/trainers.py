"""What every ``Trainer`` must do; an adapter's test inherits ``TrainerSuite``."""
# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from falaj.kernel.errors import InvalidInput
from falaj.training.encoding import EncodedFeature, Encoding, FeatureType
from falaj.training.metrics import SingleClass, auc, log_loss
from falaj.training.ports import UNKEPT, Checkpoints, FittedModel, Rows, Trainer
from falaj.training.rowmetrics import metrics_of
from falaj.training.targets import Target

ENCODING = Encoding(
    features=(
        EncodedFeature(name="signal"),
        EncodedFeature(name="noise"),
        EncodedFeature(name="word", type=FeatureType.CATEGORY, categories=("low", "mid", "high")),
    )
)
MANY = 1_500


class Stopped(Exception):
    """What a test raises to stop a fit."""


class MemoryCheckpoints:
    """Keeps every state that it is offered, in memory; stops the fit at one of them.

    Args:
        stop_after: raise ``Stopped`` when so many states have been kept.
    """

    def __init__(self, stop_after: int | None = None) -> None:
        self.kept: list[tuple[int, bytes]] = []
        self._stop_after = stop_after

    def last(self) -> bytes | None:
        """See ``Checkpoints``."""
        return self.kept[-1][1] if self.kept else None

    def keep(self, n_done: int, state: Callable[[], bytes]) -> None:
        """See ``Checkpoints``."""
        self.kept.append((n_done, state()))
        if len(self.kept) == self._stop_after:
            raise Stopped


def examples(seed: int, n: int = MANY, *, rarer: bool = False) -> Rows:
    """Rows whose label a number and a word tell in part, with missing values in all inputs.

    Args:
        rarer: about one row in ten has label 1, instead of half of them.
    """
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(n, 3)).astype(np.float32)
    matrix[:, 2] = random.integers(0, 3, n)
    logits = 1.5 * matrix[:, 0] + (matrix[:, 2] - 1) - (3.2 if rarer else 0.0)
    labels = (random.random(n) < 1 / (1 + np.exp(-logits))).astype(np.float64)
    matrix[random.random(matrix.shape) < 0.05] = np.nan
    return Rows(matrix, labels)


NUMBER = Target(task="regression")
WORDS = Target(task="classes", classes=("low", "mid", "high"))


def examples_of(target: Target, seed: int, n: int = MANY) -> Rows:
    """Rows of another task than 0 and 1, whose label a number and a word tell in part."""
    random = np.random.default_rng(seed)
    matrix = random.normal(size=(n, 3)).astype(np.float32)
    matrix[:, 2] = random.integers(0, 3, n)
    if target.task == "regression":
        labels = 1_000 + 100 * matrix[:, 0] + 30 * matrix[:, 2] + random.normal(size=n) * 20
    else:
        odds = 2.0 * np.column_stack((-matrix[:, 0], matrix[:, 2] - 1, matrix[:, 0]))
        labels = (odds + random.gumbel(size=odds.shape)).argmax(axis=1)
    matrix[random.random(matrix.shape) < 0.05] = np.nan
    return Rows(matrix, labels.astype(np.float64), target=target)


def _silent(_share: float, _told: str) -> None:
    pass


class TrainerSuite:
    """Inherit it and give the two fixtures."""

    @pytest.fixture
    def trainer(self) -> Trainer:
        """The adapter."""
        raise NotImplementedError

    @pytest.fixture
    def params(self) -> Mapping[str, Any]:
        """Parameters of a fit that takes well under a second and, where the trainer can be
        resumed, offers its state at least four times."""
        raise NotImplementedError

    @pytest.fixture
    def params_of_numbers(self, params: Mapping[str, Any]) -> Mapping[str, Any]:
        """Parameters of a fit to numbers, where they are others."""
        return params

    def fitted(
        self,
        trainer: Trainer,
        params: Mapping[str, Any],
        train: Rows | None = None,
        validation: Rows | None = None,
        *,
        seed: int = 5,
        report: Callable[[float, str], None] = _silent,
        checkpoints: Checkpoints = UNKEPT,
    ) -> FittedModel:
        """A fit on made-up rows."""
        return trainer.fit(
            examples(1) if train is None else train,
            examples(2) if validation is None else validation,
            ENCODING,
            params=params,
            seed=seed,
            report=report,
            checkpoints=checkpoints,
        )

    def test_it_learns_what_the_rows_tell(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        fitted = self.fitted(trainer, params)
        unseen = examples(3)
        scores = trainer.scores(fitted, unseen.matrix)
        assert scores.shape == (MANY,)
        assert np.all((scores >= 0) & (scores <= 1))
        assert auc(unseen.labels, scores) > 0.75

    def test_it_learns_numbers_if_it_says_so(
        self, trainer: Trainer, params_of_numbers: Mapping[str, Any]
    ) -> None:
        if "regression" not in trainer.traits.tasks:
            pytest.skip("it does not")
        parts = (examples_of(NUMBER, 1), examples_of(NUMBER, 2))
        fitted = replace(self.fitted(trainer, params_of_numbers, *parts), target=NUMBER)
        unseen = examples_of(NUMBER, 3)
        scores = trainer.scores(fitted, unseen.matrix)
        assert scores.shape == (MANY,)
        assert metrics_of(NUMBER, unseen.labels, scores)["r2"] > 0.5

    def test_it_learns_classes_if_it_says_so(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        if "classes" not in trainer.traits.tasks:
            pytest.skip("it does not")
        parts = (examples_of(WORDS, 1), examples_of(WORDS, 2))
        fitted = replace(self.fitted(trainer, params, *parts), target=WORDS)
        unseen = examples_of(WORDS, 3)
        scores = trainer.scores(fitted, unseen.matrix)
        assert scores.shape == (MANY, 3)
        np.testing.assert_allclose(scores.sum(axis=1), 1.0, atol=1e-5)
        assert metrics_of(WORDS, unseen.labels, scores)["balanced_accuracy"] > 0.55

    def test_the_same_rows_and_seed_give_the_same_bytes_or_nothing_is_promised(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        if not trainer.traits.identical:
            pytest.skip(f"the trainer {trainer.name!r} does not promise it")
        one, two = self.fitted(trainer, params), self.fitted(trainer, params)
        assert one == two

    def test_what_it_returns_is_no_pickle(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        data = self.fitted(trainer, params).data
        assert data
        assert not data.startswith(b"\x80")
        assert b"sklearn.pipeline" not in data

    def test_it_reads_missing_values_in_any_input_and_in_all(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        fitted = self.fitted(trainer, params)
        rows = np.repeat(np.array([[0.5, 0.5, 1.0]], np.float32), 5, axis=0)
        for place in range(3):
            rows[place, place] = np.nan
        rows[3] = np.nan
        assert np.isfinite(trainer.scores(fitted, rows)).all()

    def test_a_column_that_is_never_known_is_borne(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        train = examples(1)
        train.matrix[:, 1] = np.nan
        fitted = self.fitted(trainer, params, train)
        assert np.isfinite(trainer.scores(fitted, examples(3).matrix)).all()

    def test_infinite_values_are_borne(self, trainer: Trainer, params: Mapping[str, Any]) -> None:
        train = examples(1)
        train.matrix[::50, 1] = np.inf
        train.matrix[1::50, 1] = -np.inf
        fitted = self.fitted(trainer, params, train)
        rows = examples(3).matrix
        rows[0], rows[1] = np.inf, -np.inf
        assert np.isfinite(trainer.scores(fitted, rows)).all()

    def test_a_word_that_tells_the_label_is_learned_from(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        fitted = self.fitted(trainer, params)
        rows = np.zeros((3, 3), np.float32)
        rows[:, 2] = (0, 1, 2)
        low, _, high = trainer.scores(fitted, rows)
        assert high > low + 0.1

    def test_rows_that_weigh_more_count_more(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        train = examples(1, rarer=True)
        heavy = replace(train, weights=np.where(train.labels == 1, 9.0, 1.0))
        rows = examples(3, rarer=True).matrix
        plain, weighted = (
            trainer.scores(self.fitted(trainer, params, one), rows).mean() for one in (train, heavy)
        )
        assert weighted > plain + 0.1

    def test_early_stopping_keeps_the_best_round_or_is_not_promised(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        if not trainer.traits.stops_early:
            pytest.skip(f"the trainer {trainer.name!r} does not promise it")
        watched = examples(2)
        against = replace(watched, labels=1 - watched.labels)  # each round makes it worse
        patient = {**params, "early_stopping_rounds": 2}
        fitted = self.fitted(trainer, patient, validation=against)
        assert fitted.facts["best_iteration"] == 1.0
        longer = self.fitted(trainer, patient)
        assert float(longer.facts["best_iteration"]) > 1.0
        losses = [
            log_loss(watched.labels, trainer.scores(one, watched.matrix))
            for one in (fitted, longer)
        ]
        assert losses[1] < losses[0]

    def test_what_the_report_raises_ends_the_fit(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        def stop(_share: float, _told: str) -> None:
            raise Stopped

        with pytest.raises(Stopped):
            self.fitted(trainer, params, report=stop)

    def test_progress_is_told_in_shares_that_never_fall(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        told: list[float] = []
        self.fitted(trainer, params, report=lambda share, _text: told.append(share))
        assert told
        assert told == sorted(told)
        assert 0 <= told[0] <= told[-1] <= 1

    def test_facts_are_numbers_or_words_and_importance_is_of_its_inputs(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        fitted = self.fitted(trainer, params)
        assert fitted.encoding == ENCODING
        assert all(isinstance(value, float | str) for value in fitted.facts.values())
        if fitted.importance:
            assert set(fitted.importance) <= set(ENCODING.names)
            assert sum(fitted.importance.values()) == pytest.approx(1.0)
            assert max(fitted.importance, key=lambda name: fitted.importance[name]) == "signal"

    def test_a_fit_that_is_taken_up_again_ends_with_the_same_bytes_or_is_not_promised(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        if not trainer.traits.resumes:
            offered = MemoryCheckpoints()
            self.fitted(trainer, params, checkpoints=offered)
            assert not offered.kept
            pytest.skip(f"the trainer {trainer.name!r} does not promise it")
        watched = MemoryCheckpoints()
        whole = self.fitted(trainer, params, checkpoints=watched)
        assert len(watched.kept) >= 4
        for stop_after in (1, 3):
            begun = MemoryCheckpoints(stop_after)
            with pytest.raises(Stopped):
                self.fitted(trainer, params, checkpoints=begun)
            assert self.fitted(trainer, params, checkpoints=begun) == whole
            rounds = [n for n, _ in begun.kept]
            assert rounds == [n for n, _ in watched.kept], "no round is done twice"
        done = MemoryCheckpoints()
        done.kept = watched.kept[-1:]
        assert self.fitted(trainer, params, checkpoints=done) == whole

    def test_parts_that_cannot_be_learned_from_are_refused(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        empty = Rows(np.empty((0, 3), np.float32), np.empty(0))
        with pytest.raises(InvalidInput, match="train part has no rows"):
            self.fitted(trainer, params, empty)
        one = examples(2)
        with pytest.raises(SingleClass, match="validation"):
            self.fitted(trainer, params, validation=replace(one, labels=np.ones(MANY)))
        with pytest.raises(InvalidInput, match="no features"):
            self.fitted(trainer, params, Rows(np.empty((MANY, 0), np.float32), one.labels))

    def test_an_unknown_parameter_is_refused_by_name(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        assert trainer.parameters(params).items() >= dict(params).items()
        with pytest.raises(InvalidInput, match="'surprise'"):
            trainer.parameters({**params, "surprise": 1})

    def test_its_code_is_named_by_its_content(
        self, trainer: Trainer, params: Mapping[str, Any]
    ) -> None:
        assert trainer.code(params).content_hash.startswith("sha256:")
        assert trainer.code(params) == trainer.code(params)
