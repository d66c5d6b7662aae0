"""A platform whose closed loop has a past: what checks, loads and alerts have kept, for pages.

The names that data bring along are hostile: markup that a page must write as text.
"""

from __future__ import annotations

import math
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pyotp
from starlette.testclient import TestClient

from falaj.catalog.model import Classification
from falaj.features.model import FeatureService
from falaj.ingest import history
from falaj.ingest.checks import NotNull
from falaj.ingest.model import CheckResult, Contract, Example, LoadReport, LoadState, Source
from falaj.interfaces.processes import control_app
from falaj.interfaces.routing import Application
from falaj.kernel.call import AssetRef, Call
from falaj.kernel.ids import new_id
from falaj.kernel.settings import Settings
from falaj.models.model import ModelPolicy
from falaj.monitoring import persistence
from falaj.monitoring.assessments import keep
from falaj.monitoring.driftwords import (
    DriftLimits,
    DriftReport,
    DriftWatch,
    FeatureDrift,
    Finding,
    LabelDrift,
)
from falaj.monitoring.model import (
    Band,
    Labels,
    Monitor,
    PerformanceReport,
    PeriodPerformance,
    SlicePerformance,
)
from falaj.monitoring.performancereports import (
    CalibrationReport,
    EstimatedPeriod,
    EstimateReport,
    FairnessReport,
    GroupFairness,
    LossPeriod,
    LossReport,
    PeriodCalibration,
    PeriodFairness,
    ReliabilityBin,
)
from falaj.monitoring.performancewords import (
    CalibrationLimits,
    FairnessLimits,
    FigureLimit,
    Quality,
    Slice,
)
from falaj.operations.model import Severity
from falaj.rollouts import runs
from falaj.rollouts.model import (
    Challenger,
    GuardrailReading,
    Look,
    Rollout,
    RolloutKind,
    RolloutState,
    Success,
    SuccessReading,
)
from falaj.rollouts.records import Run, Step
from falaj.serving import tables
from falaj.serving.model import Endpoint, Release, RequestField, Variant
from falaj.serving.splits import Assignment, Split
from falaj.testing.browsers import Browser, forms
from falaj.trust.model import Role
from falaj.wiring.assembly import Premises, assemble
from falaj.wiring.setup import initialise

ORIGIN = "https://localhost:8443"
PASSWORD = "water finds its way downhill"
HOSTILE = "<script>alert(1)</script>"
IMAGE = '"><img src=x onerror=alert(1)>'
LABELS = Labels(table="outcomes", label="late")
PEOPLE = Labels(table="people", label="late")
CHANNEL = Slice(by="channel")
GENDER = Slice(by="gender", of="label")
DAY = timedelta(days=1)
MONITOR = Monitor(
    name="watch",
    endpoint="late",
    description=f"Watches {HOSTILE}.",
    window=DAY,
    labels=LABELS,
    drift_watch=DriftWatch(needed=2, of_last=3, labels=0.1),
    quality=Quality(
        estimated=(FigureLimit(figure="auc", worse_by=0.05, at_least=0.7),),
        realised=(FigureLimit(figure="auc", at_least=0.7),),
        slices=(CHANNEL,),
        calibration=CalibrationLimits(),
        fairness=(FairnessLimits(groups=GENDER, demographic_parity_ratio_at_least=0.8),),
        least_rows=50,
    ),
)
ENDPOINT = Endpoint(
    name="late", model="late", unit="customer",
    fields=(RequestField(name="customer", type="string"),),
)  # fmt: skip
SOURCE = Source(name="orders", table="orders", path="orders.csv", columns={"price": "number"})
CONTRACT = Contract(name="orders-contract", table="orders", checks=(NotNull(column="price"),))
ROLLOUT = Rollout(
    name="try-two", endpoint="late", how=RolloutKind.AB, success=Success(metric="error_rate"),
    challengers=(Challenger(name="two", version=2, share=0.5),),
)  # fmt: skip


def band(value: float, width: float = 0.05) -> Band:
    return Band(estimate=value, low=value - width, high=value + width)


class Watched:
    """A platform with a monitor that found drift, its alert and incident, and loads."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        found = Settings.read(folder, **settings)
        initialise(found, owner="owner")
        self.premises: Premises = assemble(found)
        self.app: Application = control_app(self.premises)
        self.now: datetime = self.premises.clock.now()
        with self.premises.calls.opened("test.prepare", "user:owner") as call:
            policy = ModelPolicy(name="late", feature_service="fields", label="late")
            fields = FeatureService(name="fields", request_fields={"x": "float64"})
            quiet = Monitor(name="quiet", endpoint="late")
            self.premises.definitions.apply(
                call,
                [fields, policy, ENDPOINT, MONITOR, quiet, SOURCE, CONTRACT, ROLLOUT],
            )
            for table, classification in (
                (LABELS.table, Classification.INTERNAL),
                (PEOPLE.table, Classification.PERSONAL),
            ):
                ref = AssetRef("table", table)
                self.premises.catalog.record(call, ref)
                self.premises.catalog.describe(call, ref, classification=classification)
        for ago in range(5, -1, -1):
            with self.premises.calls.opened("test.check", "user:owner") as call:
                self._checked(call, self.now - ago * DAY, 5 - ago)
        with self.premises.calls.opened("test.check", "user:owner") as call:
            self._assessed(call)
            self.alert = self.premises.alerts.raise_alert(
                call, name="watch:drift-wind", subject=AssetRef("endpoint", "late"),
                severity=Severity.CRITICAL, message=f"wind has drifted {HOSTILE}",
                evidence={"report": "report_1"},
            ).id  # fmt: skip
            self.incident = self.premises.incidents.listed(call.connection)[0].id
            self._rolled_out(call)
        self._loaded()

    def _checked(self, call: Call, until: datetime, place: int) -> None:
        """A check of drift: the wind drifts more and more."""
        psi = 0.05 + 0.08 * place
        drifted = psi > 0.2
        features = [
            FeatureDrift(
                name=name, psi=value, jensen_shannon=value / 2,
                ks=None if name == HOSTILE else value,
                p_value=0.0001 if over else 0.4, adjusted_p_value=0.0003 if over else 0.6,
                missing_reference=0.01, missing_observed=0.02, drifted=over,
                why="PSI 0.29 (limit 0.2)" if over else "",
            )
            for name, value, over in (("wind", psi, drifted), (HOSTILE, 0.01, False))
        ]  # fmt: skip
        findings = [
            Finding(name="unit_change", column=HOSTILE, numbers={"factor": 3.6},
                    sentence=f"{HOSTILE} is 3.6 times as large.")
        ]  # fmt: skip
        report = DriftReport(
            endpoint="late", model="late", version=1, bundle="sha256:one", since=until - DAY,
            until=until, n_reference=5000, n_observed=1200 + place, source="sketches",
            limits=DriftLimits(), features=features,
            score=features[1].model_copy(update={"name": "score", "psi": 0.02 + 0.01 * place}),
            weighted_psi=0.1, findings=findings,
            labels=LabelDrift(reference_share=0.2, observed_share=0.2 + 0.03 * place,
                              n_reference=400, n_observed=300, p_value=0.01, drifted=place > 3,
                              why="the share moved by 12 points"),
        )  # fmt: skip
        keep(call, "drift", "late", "watch", report, {LABELS.table: ["late"]})
        found = [*findings]
        if drifted:
            found.append(
                Finding(name="drift", column="wind", numbers={}, sentence="wind has drifted")
            )
        persistence.keep(
            call.connection, "watch", until - DAY, until, found, at=call.now, bundle="sha256:one",
            of_last=3,
        )  # fmt: skip

    def _assessed(self, call: Call) -> None:
        """Reports of performance; those of fairness are told from people."""
        days = [self.now - ago * DAY for ago in range(6, 0, -1)]
        window = {"endpoint": "late", "by": "day", "since": days[0], "until": self.now}
        served: dict[str, Any] = {"model": "late", "version": 1}
        periods = [
            PeriodPerformance(
                since=since, n_predictions=200, n_labels=180 - 30 * place, positive_rate=0.2,
                auc=band(0.8 - 0.04 * place, 0.03), brier=band(0.14),
                log_loss=Band(estimate=0.4, low=0.3, high=math.inf), young=place == 5,
            )
            for place, since in enumerate(days)
        ]  # fmt: skip
        sliced = SlicePerformance(
            slice=CHANNEL, group=IMAGE, n_predictions=600, n_labels=400, periods=periods
        )
        keep(
            call, "performance", "late", "watch",
            PerformanceReport(labels=LABELS, confidence=0.95, n_predictions=1200, n_labels=800,
                              periods=periods, slices=[sliced], n_groups_not_shown=1, **window),
            {LABELS.table: ["late"]},
        )  # fmt: skip
        estimated = [
            EstimatedPeriod(since=since, n_predictions=200, figures={"auc": band(0.79)})
            for since in days
        ]
        keep(
            call, "estimate", "late", "watch",
            EstimateReport(bundle="sha256:one", threshold=0.5, confidence=0.95, source="sketches",
                           reference="bundle", n_reference=5000, recalibrated=True,
                           reference_figures={"auc": 0.81}, n_predictions=1200,
                           periods=estimated, **served, **window),
            {},
        )  # fmt: skip
        losses = [
            LossPeriod(since=since, n_predictions=200, n_sampled=200, log_loss=band(0.41),
                       brier=band(0.15, 0.02))
            for since in days
        ]  # fmt: skip
        keep(
            call, "losses", "late", None,
            LossReport(n_reference=2000, reference_log_loss=0.4, reference_brier=0.14, gain=0.12,
                       periods=losses, **served, **window),
            {LABELS.table: ["late"]},
        )  # fmt: skip
        reliability = [ReliabilityBin(n=60, predicted=0.1, observed=band(0.12))]
        calibrated = [
            PeriodCalibration(since=since, n_predictions=200, n_labels=180, error=band(0.08, 0.02),
                              by_chance=0.03, p_value=0.002, bins=reliability)
            for since in days
        ]  # fmt: skip
        keep(
            call, "calibration", "late", "watch",
            CalibrationReport(labels=LABELS, confidence=0.95, n_predictions=1200, n_labels=900,
                              edges=[0.5], periods=calibrated, **window),
            {LABELS.table: ["late"]},
        )  # fmt: skip
        for labels, groups in ((LABELS, CHANNEL), (PEOPLE, GENDER)):
            treated = [
                PeriodFairness(
                    since=since, gaps={"demographic_parity_ratio": band(0.7)},
                    groups=[GroupFairness(group=IMAGE, n_predictions=90, n_labels=80,
                                          selection_rate=band(0.3))],
                )
                for since in days
            ]  # fmt: skip
            keep(
                call, "fairness", "late", "watch",
                FairnessReport(labels=labels, groups=groups, threshold=0.5, confidence=0.95,
                               least_shown=20, n_groups_not_shown=0, periods=treated, **window),
                {labels.table: ["late", groups.by]},
            )  # fmt: skip

    def _rolled_out(self, call: Call) -> None:
        """A run of the rollout, with five looks."""
        run = Run(
            id=new_id("rol"), name="try-two", endpoint="late", rollout=ROLLOUT, change="change_1",
            state=RolloutState.RUNNING, step=Step.LOOK, release="release_1", model="late",
            champion=1, stage_since=self.now, shares={"champion": 0.5, "two": 0.5},
            shares_since=self.now, started_at=self.now, started_by="user:amina", due_at=self.now,
            why=f"It runs {HOSTILE}.",
        )  # fmt: skip
        assert runs.begun(call.connection, run)
        for place in range(5):
            counted: dict[str, Any] = {"n_champion": 100.0, "n_challenger": 100.0}
            look = Look(
                units={"champion": 512, "two": 498},
                guardrails=[
                    GuardrailReading(metric="latency", challenger="two", champion=0.012, error=0.02,
                                     challenger_value=0.013, worse_by=-0.02, **counted)
                ],
                success=[
                    SuccessReading(metric="error_rate", challenger="two", estimate=0.01 * place,
                                   low=-0.2 + 0.02 * place, high=0.3 - 0.02 * place, **counted)
                ],
            )  # fmt: skip
            at = self.now + timedelta(minutes=place)
            runs.keep_look(
                call.connection, run.model_copy(update={"n_looks": place}), at, look,
                decision="wait", why="",
            )  # fmt: skip

    def _loaded(self) -> None:
        """Three loads of orders, of which the last breaks the contract."""
        for place, state in enumerate((LoadState.DONE, LoadState.DONE, LoadState.REFUSED)):
            failed = state is LoadState.REFUSED
            result = CheckResult(
                contract="orders-contract", check=f"not_null(price) {HOSTILE}", severity="fail",
                n_rows=100, n_violations=7 * failed, share=0.07 * failed, passed=not failed,
                value=0.07 * failed, high=0.01,
                examples=[Example(row=17, values={"price": HOSTILE})] if failed else [],
            )  # fmt: skip
            report = LoadReport(
                id=f"load_{place}", source="orders", table="orders", state=state,
                at=self.now - (3 - place) * DAY, digest=f"{place}", files=["orders.csv"],
                n_read=100, n_written=0 if failed else 90 + place, n_quarantined=place,
                checks=[result],
            )  # fmt: skip
            with self.premises.calls.opened("test.load", "user:owner") as call:
                history.record(call, report, f"content-{place}")

    def serve_two(self, name: str, share: float | None, *, shadow: bool = False) -> None:
        """Let an endpoint of this name serve two variants.

        Args:
            share: of the units, that meets the challenger; None: nobody has said it yet.
            shadow: it runs behind the answer.
        """
        releases = self.premises.serving.releases
        pinned: dict[str, Any] = {"model": "late", "bundle": f"sha256:{'0' * 64}"}
        with self.premises.calls.opened("test.serve", "user:owner") as call:
            declared = ENDPOINT.model_copy(update={"name": name})
            self.premises.definitions.apply(call, [declared])
            release = Release(
                id=new_id("release"), endpoint=name, fields=declared.fields, unit="customer",
                variants=(
                    Variant(**pinned, version=1),
                    Variant(**pinned, version=2, name="two", share=0, shadow=shadow),
                ),
                assignment=Assignment(salt=name, final={"two": 0.5}),
                created_at=call.now, created_by="user:owner",
            )  # fmt: skip
            tables.keep_release(
                call.connection, id=release.id, endpoint=name, created_at=call.now,
                document=release.model_dump(mode="json"), state="deployed",
            )  # fmt: skip
            row = releases.locked(call.connection, name)
            releases._flipped(call, row, release)  # no worker has to load it
        if share is not None:
            split = Split(endpoint=name, release=release.id, shares={"two": share})
            releases._table.split(name, split)

    def browser(self, name: str, *roles: Role, origin: str = ORIGIN) -> Browser:
        """A browser in which a new person of these roles has signed in."""
        web: httpx.Client = TestClient(self.app, base_url=origin)
        found = Browser(web)
        link = self._invited(name, roles)
        page = found.open(f"/enrol?secret={link}")
        page = found.send(page, "/enrol", name=name, password=PASSWORD, again=PASSWORD)
        (form,) = forms(page)
        code = pyotp.TOTP(form.fields["totp_secret"]).at(int(time.time()))
        done = found.post(form.action, {**form.fields, "code": code})
        recovery = done.text.split("<code>")[1].split("</code>")[0]
        assert found.login(name, PASSWORD, recovery, "/monitors").status_code == 303
        return found

    def _invited(self, name: str, roles: tuple[Role, ...]) -> str:
        with self.premises.database.transaction() as connection:
            return self.premises.authentication.enrolment.invite(
                connection, name=name, roles=roles, created_by="user:owner",
                now=self.premises.clock.now(),
            ).secret.get_secret_value()  # fmt: skip
