from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from sklearn import metrics

from falaj.kernel.errors import InvalidInput
from falaj.monitoring.multiclass import ClassCurves, class_shares, realised_classes

RANDOM = np.random.default_rng(8)


def drawn(n: int, *, sharpness: float = 2.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of four classes, the last one rare, and classes that come true so."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(n, 4)) * sharpness - np.array([0, 0, 0.5, 1.5])
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (random.random(n)[:, None] > shares.cumsum(axis=1)).sum(axis=1)
    return shares, np.minimum(labels, 3)


def test_the_macro_f1_is_that_of_scikit_learns_documentation() -> None:
    """f1_score of [0, 1, 2, 0, 1, 2] and [0, 2, 1, 0, 0, 1] is 0.26 by macro average."""
    labels, said = np.array([0, 1, 2, 0, 1, 2]), np.array([0, 2, 1, 0, 0, 1])
    found = realised_classes(labels, np.eye(3)[said], 0.95)
    assert found["macro_f1"].estimate == pytest.approx(0.8 / 3)


def test_the_log_loss_is_that_of_scikit_learns_documentation() -> None:
    """log_loss of ham and spam, 0.21616…"""
    shares = np.array([[0.1, 0.9], [0.9, 0.1], [0.8, 0.2], [0.35, 0.65]])
    found = realised_classes(np.array([1, 0, 0, 1]), shares, 0.95)
    assert found["log_loss"].estimate == pytest.approx(0.21616187468057912)


def test_figures_are_those_of_scikit_learn_also_where_a_class_never_came() -> None:
    shares, labels = drawn(3_000)
    for rows in (slice(None), labels != 3):
        p, y = shares[rows], labels[rows]
        found = realised_classes(y, p, 0.95)
        said = p.argmax(axis=1)
        wanted = {
            "accuracy": metrics.accuracy_score(y, said),
            "macro_f1": metrics.f1_score(y, said, average="macro"),
            "log_loss": metrics.log_loss(y, p, labels=range(4)),
        }
        assert {name: band.estimate for name, band in found.items()} == pytest.approx(wanted)


def test_two_classes_have_the_figures_of_a_binary_model() -> None:
    from falaj.monitoring.realised import realised

    scores = RANDOM.random(800)
    labels = (RANDOM.random(800) < scores).astype(int)
    found = realised_classes(labels, np.column_stack([1 - scores, scores]), 0.95)
    known = realised(labels.astype(float), scores, 0.5, 0.95)
    for name in ("accuracy", "log_loss"):
        other = known[name]
        assert other is not None
        assert found[name].model_dump() == pytest.approx(other.model_dump())


def test_the_bands_hold_the_true_figures_as_often_as_they_say() -> None:
    shares, labels = drawn(400_000)
    true = realised_classes(labels, shares, 0.9)
    held = dict.fromkeys(true, 0)
    for part in range(1_000):
        rows = slice(part * 400, (part + 1) * 400)
        for name, band in realised_classes(labels[rows], shares[rows], 0.9).items():
            held[name] += band.low <= true[name].estimate <= band.high
    assert all(870 <= times <= 930 for times in held.values()), held


def test_few_rows_that_are_all_right_are_not_surely_right() -> None:
    found = realised_classes(np.array([0, 1, 2] * 5), np.eye(3)[[0, 1, 2] * 5], 0.95)
    assert found["macro_f1"].estimate == 1.0
    assert found["macro_f1"].low == pytest.approx(found["accuracy"].low)
    assert found["accuracy"].low < 0.8


def test_scores_that_come_true_are_left_as_they_are() -> None:
    shares, labels = drawn(20_000)
    curves = ClassCurves.of_rows(shares, labels)
    later, came = drawn(4_000, sharpness=1.0, seed=1)
    found, _ = curves.expected(later, 0.95)
    realised = realised_classes(came, later, 0.95)
    for name, band in found.items():
        assert band.low < realised[name].estimate < band.high, name
    assert found["accuracy"].estimate < curves.figures["accuracy"] - 0.1


def test_scores_that_are_too_sure_are_set_right() -> None:
    shares, labels = drawn(30_000, sharpness=1.0, seed=2)
    sure = shares**2 / (shares**2).sum(axis=1, keepdims=True)
    curves = ClassCurves.of_rows(sure[:20_000], labels[:20_000])
    assert curves.needed
    found, _ = curves.expected(sure[20_000:], 0.95)
    realised = realised_classes(labels[20_000:], sure[20_000:], 0.95)
    plain = sure[20_000:].max(axis=1).mean()
    assert plain > found["accuracy"].high
    for name, band in found.items():
        assert band.low < realised[name].estimate < band.high, name


@pytest.mark.parametrize(
    ("too_sure", "n_reference", "n"), [(1.0, 1_000, 1_000), (2.0, 1_000, 3_000), (2.0, 300, 3_000)]
)
def test_the_bands_of_what_is_expected_hold_what_comes_as_often_as_they_say(
    too_sure: float, n_reference: int, n: int
) -> None:
    """Of scores that come true as they are, and of scores that have to be set right."""
    held, told, times = dict.fromkeys(("accuracy", "macro_f1", "log_loss"), 0), 0, 100
    for seed in range(times):
        shares, labels = drawn(n_reference + n, seed=seed)
        shares = shares**too_sure / (shares**too_sure).sum(axis=1, keepdims=True)
        curves = ClassCurves.of_rows(shares[:n_reference], labels[:n_reference])
        realised = realised_classes(labels[n_reference:], shares[n_reference:], 0.9)
        bands, why = curves.expected(shares[n_reference:], 0.9)
        told += not why
        for name, band in bands.items():
            held[name] += band.low <= realised[name].estimate <= band.high
    assert told == times
    least = {"accuracy": 0.85, "macro_f1": 0.85, "log_loss": 0.8}
    assert all(least[name] <= held[name] / times <= 0.98 for name in held), held


def too_sure(
    n: int, k: int, apart: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of k classes whose logits are twice what they should be, and the classes."""
    logits = random.normal(size=(n, k)) * apart
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (random.random(n)[:, None] > true.cumsum(axis=1)).sum(axis=1)
    return true**2 / (true**2).sum(axis=1, keepdims=True), np.minimum(labels, k - 1)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("k", "n_reference", "n", "apart", "least"),
    [
        (3, 300, 5_000, 2.0, 0.86),
        (3, 1_000, 5_000, 2.0, 0.90),
        (5, 1_000, 5_000, 2.0, 0.90),
        (3, 1_000, 2_000, 1.0, 0.78),
    ],
)
def test_the_bands_of_scores_that_are_too_sure_hold_as_the_decision_record_says(
    k: int, n_reference: int, n: int, apart: float, least: float
) -> None:
    held, times = dict.fromkeys(("accuracy", "macro_f1", "log_loss"), 0), 200
    for seed in range(times):
        random = np.random.default_rng(seed)
        curves = ClassCurves.of_rows(*too_sure(n_reference, k, 2.0, random))
        shares, labels = too_sure(n, k, apart, random)
        came = realised_classes(labels, shares, 0.95)
        for name, band in curves.expected(shares, 0.95)[0].items():
            held[name] += band.low <= came[name].estimate <= band.high
    assert min(held.values()) / times >= least, held


def with_a_rare_class(n: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of three classes that come true, the third 1 % of rows and told well."""
    often, apart = np.array([0.495, 0.495, 0.01]), np.array([1.6, 1.6, 4.0])
    labels = random.choice(3, size=n, p=often)
    seen = random.normal(size=(n, 3))
    seen[np.arange(n), labels] += apart[labels]
    chances = often * np.exp(seen * apart - apart**2 / 2)
    return chances / chances.sum(axis=1, keepdims=True), labels


def test_days_without_a_rare_class_raise_no_alert_of_the_macro_f1() -> None:
    random = np.random.default_rng(100)
    curves = ClassCurves.of_rows(*with_a_rare_class(4_000, random), ("a", "b", "rare"))
    limit = curves.figures["macro_f1"] - 0.1
    told = []
    for _ in range(100):
        shares, _ = with_a_rare_class(100, random)
        bands, why = curves.expected(shares, 0.95)
        told.append(why)
        assert "macro_f1" not in bands or bands["macro_f1"].high >= limit
        assert {"accuracy", "log_loss"} <= set(bands)
    expected = "rows of the class 'rare' are expected, too few: at least 5 tell something."
    assert sum(one.startswith("macro_f1: ") and one.endswith(expected) for one in told) >= 80


def test_the_macro_f1_of_enough_rows_of_a_rare_class_is_told() -> None:
    random = np.random.default_rng(101)
    curves = ClassCurves.of_rows(*with_a_rare_class(4_000, random))
    held = 0
    for _ in range(50):
        shares, labels = with_a_rare_class(1_500, random)
        bands, why = curves.expected(shares, 0.95)
        came = realised_classes(labels, shares, 0.95)["macro_f1"].estimate
        held += bands["macro_f1"].low <= came <= bands["macro_f1"].high
        assert not why
    assert held >= 45


def test_a_class_that_surely_does_not_come_leaves_the_macro_f1_as_it_is() -> None:
    shares, labels = drawn(3_000)
    curves = ClassCurves.of_rows(shares, labels)
    sure = np.tile([0.6, 0.4, 0.0, 0.0], (500, 1))
    sure[::2] = [0.3, 0.7, 0.0, 0.0]
    plain = replace(curves, curves=tuple(replace(one, needed=False) for one in curves.curves))
    bands, why = plain.expected(sure, 0.95)
    assert why == ""
    # Of the 250 rows said to be the first 150 are, of 225; of those said to be the other 175.
    first, second = 2 * 150 / (250 + 225), 2 * 175 / (250 + 275)
    assert bands["macro_f1"].estimate == pytest.approx((first + second) / 2)


@pytest.mark.parametrize("found", [True, False])
def test_one_row_does_not_make_the_f1_of_its_class_sure(found: bool) -> None:
    """100 rows, one of them of the third class: alone it tells nearly nothing of that class."""
    labels = np.array([0, 1] * 49 + [0, 2])
    said = labels.copy()
    said[:8:2] = 1
    said[-1] = 2 if found else 0
    band = realised_classes(labels, np.eye(3)[said], 0.95)["macro_f1"]
    if found:
        assert band.low < band.estimate - 0.15
    else:
        assert band.high > band.estimate + 0.2


def test_the_realised_band_holds_where_a_class_has_few_rows() -> None:
    random = np.random.default_rng(1)
    true = realised_classes(*with_a_rare_class(400_000, random)[::-1], 0.95)["macro_f1"].estimate
    held = seen = 0
    for _ in range(500):
        shares, labels = with_a_rare_class(100, random)
        if not ((labels == 2) | (shares.argmax(axis=1) == 2)).any():
            continue  # then it is the mean of two classes, which is another figure
        band = realised_classes(labels, shares, 0.95)["macro_f1"]
        held += band.low <= true <= band.high
        seen += 1
    assert held / seen > 0.87


def test_so_few_rows_tell_no_figure_of_classes() -> None:
    shares, labels = drawn(1_000)
    found, why = ClassCurves.of_rows(shares, labels).expected(shares[:19], 0.95)
    assert (found, why) == ({}, "19 rows are too few: at least 20 tell something.")


def test_a_class_that_never_came_is_named() -> None:
    shares, labels = drawn(1_000)
    with pytest.raises(InvalidInput, match="0 of the class 'rare'"):
        ClassCurves.of_rows(shares[labels != 3], labels[labels != 3], ("a", "b", "c", "rare"))


@pytest.mark.parametrize(
    ("outputs", "match"),
    [
        ([[0.5], [0.4]], "have 1 outputs"),
        ([[0.5, 0.5], [0.2, 0.3, 0.5]], "2 or 3 outputs"),
        ([[0.5, 0.9], [0.4, 0.6]], "do not add up to 1"),
        ([[1.5, -0.5], [0.4, 0.6]], "one is negative"),
    ],
)
def test_outputs_that_are_no_probabilities_are_refused(
    outputs: list[list[float]], match: str
) -> None:
    with pytest.raises(InvalidInput, match=match):
        class_shares(pa.chunked_array([pa.array(outputs)]), ())


def test_other_numbers_of_outputs_than_classes_are_refused() -> None:
    with pytest.raises(InvalidInput, match="of 3 classes"):
        class_shares(pa.array([[0.5, 0.5]]), ("a", "b", "c"))
