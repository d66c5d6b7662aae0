"""Gates: what a version must keep to be served, measured on rows that it has not seen.

Each gate gives a result with its numbers. A gate that finds a version good enough says
so with the same numbers as one that refuses it: evidence, not claims.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from falaj.kernel.clock import microseconds
from falaj.kernel.errors import Corrupt, InvalidInput
from falaj.models.bundles import Bundle, Bundles
from falaj.models.intervals import auc_interval, metric_difference
from falaj.models.leakage import feature_power, own_rows, sampled
from falaj.models.model import (
    GateResult,
    LatencyRule,
    LeakageRule,
    MetricRule,
    ModelPolicy,
    Outcome,
    Parent,
    ParentRule,
    SliceRule,
)
from falaj.models.supply_gate import supply_chain
from falaj.training.encoding import as_labels, instants
from falaj.training.metrics import (
    FUNCTIONS,
    HIGHER_IS_BETTER,
    Vector,
    calibration_error,
    calibration_table,
)
from falaj.training.model import TEST, TrainingSet
from falaj.training.ports import Report, untold
from falaj.training.training_sets import part_of, unseen

if TYPE_CHECKING:
    from falaj.models.ports import Scorer, ScorerFactory
    from falaj.models.vulnerabilities import Vulnerabilities

_MEGABYTE = 1_000_000
_WORST_SHOWN = 10


@dataclass(frozen=True)
class Examined:
    """A version before the gates: its bundle, and the test rows that it is judged on."""

    bundle: Bundle
    scorer: Scorer
    training_set: TrainingSet
    rows: pa.Table
    champion: Bundle | None = None
    champion_scorer: Scorer | None = None
    champion_set: TrainingSet | None = None
    champion_version: int | None = None

    @cached_property
    def labels(self) -> Vector:
        """Label of each test row."""
        label, _ = self.training_set.trainable()
        return as_labels(self.rows.column(label), label)

    @cached_property
    def matrix(self) -> Any:
        """The test rows as the model reads them."""
        return self.bundle.manifest.signature.encoding.matrix(self.rows)

    @cached_property
    def scores(self) -> Vector:
        """The packaged model's probabilities."""
        return self.scorer.scores(self.matrix)


class Gates:
    """Runs the gates of a policy on a version.

    Args:
        advisories: the known vulnerabilities; None if the settings name none.
    """

    def __init__(
        self,
        bundles: Bundles,
        scorers: ScorerFactory,
        advisories: Vulnerabilities | None = None,
    ) -> None:
        self._bundles = bundles
        self._scorers = scorers
        self._advisories = advisories

    def evaluate(
        self,
        policy: ModelPolicy,
        *,
        bundle: str,
        training_set: TrainingSet,
        rows: pa.Table,
        champion: str | None = None,
        champion_set: TrainingSet | None = None,
        champion_version: int | None = None,
        report: Report = untold,
    ) -> list[GateResult]:
        """Measure everything that the policy asks for.

        Args:
            bundle: the version's bundle.
            rows: the training set with all its parts; the test part judges.
            champion: the bundle of the version in production, if there is one.

        Raises:
            InvalidInput: the training set has no test rows, or lacks what a rule names.
        """
        test = part_of(rows, TEST)
        if test.num_rows == 0:
            raise InvalidInput(
                f"The training set {training_set.id} has no test rows to judge by.",
                hint="Make one whose split leaves rows after validation_until.",
            )
        try:
            opened = self._bundles.open_bundle(bundle)
        except Corrupt as error:
            return [GateResult(gate="bundle", outcome=Outcome.FAILED, message=error.message,
                               evidence={"bundle": bundle})]  # fmt: skip
        rival = self._bundles.open_bundle(champion) if champion else None
        test, origin = _unseen(opened, training_set, test)
        if origin is not None and origin.outcome is Outcome.FAILED:
            return [bundle_gate_of(opened), origin]
        examined = Examined(
            bundle=opened,
            scorer=self._scorer(opened),
            training_set=training_set,
            rows=test,
            champion=rival,
            champion_scorer=self._scorer(rival) if rival else None,
            champion_set=champion_set,
            champion_version=champion_version,
        )
        results: list[GateResult] = [] if origin is None else [origin]
        gates = _gates(policy)
        gates.insert(1, ("supply_chain", self._supply_chain_gate(policy)))
        if opened.manifest.parent is not None:
            gates.append(("parent", self._parent_gate(policy, opened.manifest.parent)))
        for done, (name, gate) in enumerate(gates):
            report(done / len(gates), f"gate {name}")
            results.append(gate(examined))
        return results

    def _scorer(self, bundle: Bundle) -> Scorer:
        manifest = bundle.manifest
        names = manifest.signature.encoding.names
        return self._scorers.of(manifest.model_format, bundle.model, names)

    def _supply_chain_gate(self, policy: ModelPolicy) -> Gate:
        """What the version is made of may be served."""

        def gate(examined: Examined) -> GateResult:
            return supply_chain(policy.supply_chain, examined.bundle, self._advisories)

        return gate

    def _parent_gate(self, policy: ModelPolicy, parent: Parent) -> Gate:
        """The version answers nearly as the one that it was made from."""

        def gate(examined: Examined) -> GateResult:
            others = self._scorer(self._bundles.open_bundle(parent.bundle)).scores(examined.matrix)
            return parent_gate(policy.parent, parent, examined, others)

        return gate


Gate = Callable[[Examined], GateResult]


def _gates(policy: ModelPolicy) -> list[tuple[str, Gate]]:
    """The gates that a policy asks for, by name."""
    gates: list[tuple[str, Gate]] = [("bundle", bundle_gate), ("contract", contract_gate(policy))]
    if policy.leakage:
        gates.append(("leakage", leakage_gate(policy.leakage)))
    for floor in policy.floors:
        gates.append((f"metric:{floor.metric}", metric_gate(floor)))
    if policy.champion:
        gates.append(("champion", champion_gate(policy)))
    for rule in policy.slices:
        for column in rule.columns:
            gates.append((f"slices:{column}", slice_gate(rule, column)))
    if policy.calibration is not None:
        gates.append(("calibration", calibration_gate(policy.calibration)))
    if policy.latency:
        gates.append(("latency", latency_gate(policy.latency)))
    if policy.largest_megabytes is not None:
        gates.append(("size", size_gate(policy.largest_megabytes)))
    return gates


def bundle_gate(examined: Examined) -> GateResult:
    """The signature and every digest of the bundle were verified when it was opened."""
    return bundle_gate_of(examined.bundle)


def bundle_gate_of(bundle: Bundle) -> GateResult:
    """The same, of a bundle whose rows cannot be examined."""
    return _result(
        "bundle",
        True,
        f"signature and {len(bundle.entries)} files verified",
        {
            "signers": list(bundle.signers),
            "files": {one.name: one.sha256 for one in bundle.entries},
        },
    )


def unjudged(bundle: str) -> list[GateResult]:
    """What the gates say of a version that names no training set: nothing can be measured."""
    return [
        _result(
            "rows",
            False,
            "the model was brought without a training set of this platform to judge it on",
            {"bundle": bundle, "hint": "bring it again with training_set and trained_until"},
        )
    ]


def _unseen(
    bundle: Bundle, training_set: TrainingSet, test: pa.Table
) -> tuple[pa.Table, GateResult | None]:
    """The test rows that a brought model cannot have learned from, and the gate of its origin.

    What was trained elsewhere may have seen any row until ``trained_until``. Without that
    instant, or with no row after it, nothing can be measured that means anything.
    """
    brought = bundle.manifest.brought
    if brought is None:
        return test, None
    evidence: dict[str, Any] = brought.model_dump(mode="json")
    told = f"brought by {brought.by} as {brought.file}"
    if brought.trained_until is None:
        why = f"{told}; nobody says until when its training rows reach"
        return test, _result("origin", False, why, evidence)
    spec = training_set.spec
    at = instants(test.column(spec.timestamp), spec.timestamp)
    later = at > microseconds(brought.trained_until)
    evidence |= {"n_rows": int(later.sum()), "n_rows_left_out": int((~later).sum())}
    until = f"{brought.trained_until:%Y-%m-%d %H:%M}"
    label, _ = training_set.trainable()
    kept = test.filter(pa.array(later))
    ones = as_labels(kept.column(label), label)
    if not 0 < ones.sum() < len(ones):
        why = f"{told}; no test rows of both classes lie after {until}"
        return test, _result("origin", False, why, evidence)
    why = f"{told}, by its word on rows until {until}; judged on {len(ones)} later rows"
    return kept, _result("origin", True, why, evidence)


def parent_gate(rule: ParentRule, parent: Parent, examined: Examined, others: Vector) -> GateResult:
    """A version made from another differs from it by no more than the rule allows."""
    differences = np.abs(examined.scores - others)
    worst, mean = float(differences.max()), float(differences.mean())
    auc = FUNCTIONS["auc"]
    loss = auc(examined.labels, others) - auc(examined.labels, examined.scores)
    return _result(
        "parent",
        worst <= rule.worst_difference and loss <= rule.auc_loss,
        f"{parent.made_by} of version {parent.version}: scores differ by at most {worst:.4f}, "
        f"asked ≤ {rule.worst_difference}; AUC lost {loss:+.5f}, asked ≤ {rule.auc_loss}",
        {
            "worst_difference": worst,
            "mean_difference": mean,
            "auc_loss": float(loss),
            "limits": rule.model_dump(),
            "when_made": parent.model_dump(),
            "n_rows": len(differences),
        },
    )


def contract_gate(policy: ModelPolicy) -> Gate:
    """The model was trained for the label and the feature service of its policy."""

    def gate(examined: Examined) -> GateResult:
        manifest = examined.bundle.manifest
        found = {"label": manifest.signature.label, "feature_service": manifest.feature_service}
        wanted = {"label": policy.label, "feature_service": policy.feature_service}
        good = found == wanted
        message = "inputs and label as declared" if good else f"{found} is not {wanted}"
        return _result("contract", good, message, {"found": found, "declared": wanted})

    return gate


def leakage_gate(rule: LeakageRule) -> Gate:
    """Neither the model nor a feature predicts too well to be honest."""

    def gate(examined: Examined) -> GateResult:
        encoding = examined.bundle.manifest.signature.encoding
        names, words = encoding.names, encoding.words
        places = sampled(len(examined.labels))
        matrix, labels = examined.matrix[places], examined.labels[places]
        model = auc_interval(examined.labels, examined.scores)
        strongest = feature_power(names, matrix, labels)
        own = own_rows(names, matrix, labels, rule.first_event_auc, words=words)
        signs = []
        if model.estimate > rule.model_auc:
            signs.append(
                f"the model's AUC {model.estimate:.3f} is above {rule.model_auc}: was the "
                "question asked at a time when the answer was known?"
            )
        signs += [
            f"{one.feature} alone reaches an AUC of {one.auc:.3f}"
            for one in strongest
            if one.auc > rule.feature_auc
        ]
        signs += [
            f"where {one.count} is 1, {one.feature} gives the label away (AUC {one.auc:.3f}): "
            "its window holds the row itself"
            for one in own
        ]
        return _result(
            "leakage",
            not signs,
            "; ".join(signs[:5])
            or f"strongest feature {strongest[0].feature} alone reaches "
            f"{strongest[0].auc:.3f}, the model {model.estimate:.3f}",
            {
                "model_auc": model.evidence(),
                "limits": rule.model_dump(),
                "features": {one.feature: one.auc for one in strongest[:_WORST_SHOWN]},
                "own_rows": [vars(one) for one in own[:_WORST_SHOWN]],
                "n_rows_sampled": len(labels),
            },
        )

    return gate


def metric_gate(rule: MetricRule) -> Gate:
    """The metric reaches its limit on the test rows."""

    def gate(examined: Examined) -> GateResult:
        value = FUNCTIONS[rule.metric](examined.labels, examined.scores)
        higher = HIGHER_IS_BETTER[rule.metric]
        good = value >= rule.limit if higher else value <= rule.limit
        evidence: dict[str, Any] = {
            "value": value,
            "limit": rule.limit,
            "n_rows": len(examined.labels),
            "positive_rate": float(examined.labels.mean()),
        }
        if rule.metric == "auc":
            evidence["interval"] = auc_interval(examined.labels, examined.scores).evidence()
        sign = "≥" if higher else "≤"
        message = f"{rule.metric} {value:.4f}, asked {sign} {rule.limit}"
        return _result(f"metric:{rule.metric}", good, message, evidence)

    return gate


def champion_gate(policy: ModelPolicy) -> Gate:
    """The version is not worse than (or better than) the one in production.

    Only rows after everything that the champion was fitted on are compared.
    """
    rule = policy.champion
    if rule is None:
        raise ValueError("the policy has no champion rule")

    def gate(examined: Examined) -> GateResult:
        if examined.champion is None or examined.champion_scorer is None:
            return GateResult(
                gate="champion",
                outcome=Outcome.SKIPPED,
                message="nothing is in production to compare with",
                evidence={},
            )
        evidence: dict[str, Any] = {"champion": examined.champion_version, **rule.model_dump()}
        encoding = examined.champion.manifest.signature.encoding
        missing = [name for name in encoding.names if name not in examined.rows.column_names]
        if missing:
            return _result(
                "champion",
                False,
                f"the rows lack {', '.join(missing)}, so that version "
                f"{examined.champion_version} cannot be compared",
                {**evidence, "missing": missing},
            )
        later = _after(examined)
        if not 0 < examined.labels[later].sum() < later.sum():
            return _result(
                "champion",
                False,
                "no test rows of both classes lie after the champion's own training rows",
                {**evidence, "n_rows": int(later.sum())},
            )
        others = examined.champion_scorer.scores(encoding.matrix(examined.rows))
        found = metric_difference(
            rule.metric,
            examined.labels[later],
            examined.scores[later],
            others[later],
            confidence=rule.confidence,
        )
        good = found.low > 0 if rule.require == "better" else found.high >= -rule.margin
        return _result(
            "champion",
            good,
            f"{rule.metric} better by {found.estimate:+.4f} [{found.low:+.4f}, {found.high:+.4f}] "
            f"than version {examined.champion_version}, asked {rule.require.replace('_', ' ')}",
            {**evidence, "difference": found.evidence(), "n_rows": int(later.sum())},
        )

    return gate


def slice_gate(rule: SliceRule, column: str) -> Gate:
    """No slice by one column is surely under the limit."""

    def gate(examined: Examined) -> GateResult:
        if column not in examined.rows.column_names:
            raise InvalidInput(
                f"The test rows have no column {column!r} to slice by.",
                hint="Keep it in the spine.",
            )
        values = examined.rows.column(column).cast(pa.string())
        words = np.asarray(pc.fill_null(values, "(missing)").to_pylist(), dtype=object)
        judged, n_small = [], 0
        for word in sorted(set(words.tolist())):
            inside = words == word
            y = examined.labels[inside]
            if y.size < rule.least_rows or not 0 < y.sum() < y.size:
                n_small += 1
                continue
            found = auc_interval(y, examined.scores[inside], confidence=rule.confidence)
            judged.append({"slice": word, "n_rows": int(y.size), **found.evidence()})
        judged.sort(key=lambda one: one["estimate"])
        bad = [one for one in judged if one["high"] < rule.limit]
        evidence = {
            "limit": rule.limit,
            "n_slices": len(judged),
            "n_too_small": n_small,
            "surely_under": [one["slice"] for one in bad],
            "worst": judged[:_WORST_SHOWN],
        }
        if not judged:
            return GateResult(gate=f"slices:{column}", outcome=Outcome.SKIPPED,
                              message="every slice is too small", evidence=evidence)  # fmt: skip
        worst = judged[0]
        return _result(
            f"slices:{column}",
            not bad,
            f"worst slice {worst['slice']} has {rule.metric} {worst['estimate']:.3f} "
            f"[{worst['low']:.3f}, {worst['high']:.3f}] on {worst['n_rows']} rows; "
            f"{len(bad)} of {len(judged)} surely under {rule.limit}",
            evidence,
        )

    return gate


def calibration_gate(limit: float) -> Gate:
    """The expected calibration error stays under its limit."""

    def gate(examined: Examined) -> GateResult:
        error = calibration_error(examined.labels, examined.scores)
        return _result(
            "calibration",
            error <= limit,
            f"calibration error {error:.4f}, asked ≤ {limit}",
            {
                "error": error,
                "limit": limit,
                "bins": calibration_table(examined.labels, examined.scores),
            },
        )

    return gate


def latency_gate(rule: LatencyRule) -> Gate:
    """Single distinct rows through the packaged model, on one thread of this machine."""

    def gate(examined: Examined) -> GateResult:
        places = sampled(len(examined.matrix))
        distinct = np.unique(examined.matrix[places], axis=0)
        if len(distinct) < 1000:
            return GateResult(
                gate="latency",
                outcome=Outcome.SKIPPED,
                message=f"only {len(distinct)} distinct test rows; fewer than 1,000 make a "
                "model look faster than it is",
                evidence={"n_rows": len(distinct)},
            )
        order = np.random.default_rng(7).permutation(len(distinct))[: rule.n_rows]
        taken = examined.scorer.seconds_per_row(distinct[order]) * 1000
        p50, p99 = (float(value) for value in np.quantile(taken, [0.5, 0.99]))
        return _result(
            "latency",
            p50 <= rule.p50_ms and p99 <= rule.p99_ms,
            f"p50 {p50:.3f} ms, p99 {p99:.3f} ms, asked ≤ {rule.p50_ms} and ≤ {rule.p99_ms}",
            {"p50_ms": p50, "p99_ms": p99, "n_rows": len(order), "limits": rule.model_dump()},
        )

    return gate


def size_gate(limit: float) -> Gate:
    """All files of the bundle together stay under a limit, in megabytes."""

    def gate(examined: Examined) -> GateResult:
        size = examined.bundle.size / _MEGABYTE
        return _result(
            "size",
            size <= limit,
            f"{size:.2f} MB, asked ≤ {limit}",
            {"megabytes": size, "limit": limit},
        )

    return gate


def _after(examined: Examined) -> Any:
    """True for test rows that lie after the champion's training and validation rows, or that
    were test rows of its own set."""
    spec = examined.training_set.spec
    at = instants(examined.rows.column(spec.timestamp), spec.timestamp)
    after = np.full(at.shape, True)
    if examined.champion_set is not None:
        after &= unseen(examined.champion_set, examined.rows, examined.training_set)
    brought = examined.champion.manifest.brought if examined.champion else None
    if brought is not None and brought.trained_until is not None:
        after &= at > microseconds(brought.trained_until)
    return after


def _result(gate: str, good: bool, message: str, evidence: dict[str, Any]) -> GateResult:
    outcome = Outcome.PASSED if good else Outcome.FAILED
    return GateResult(gate=gate, outcome=outcome, message=message, evidence=evidence)
