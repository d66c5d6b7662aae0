"""The actions that tell how good a model is, with and without labels."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, ValidationError

from falaj.kernel.actions import Service, action
from falaj.kernel.errors import InvalidInput
from falaj.monitoring.model import (
    Column,
    Instant,
    Labels,
    PerformanceReport,
    Period,
    Table,
)
from falaj.monitoring.performancereports import (
    CalibrationReport,
    EstimateReport,
    FairnessReport,
    LabelledWindow,
    LossReport,
)
from falaj.monitoring.performancewords import Share, Slice, SliceOf
from falaj.monitoring.sight import Sight, asked_window
from falaj.serving.model import EndpointName
from falaj.training.targets import Task

if TYPE_CHECKING:
    from falaj.monitoring.monitors import Monitors

On = Literal["prediction_id", "request_id", "unit"]
Edges = Annotated[tuple[float, ...], Field(max_length=50)]
Classes = Annotated[tuple[str, ...], Field(max_length=1_000)]
Bins = Annotated[int, Field(ge=2, le=50)]


class AssessmentActions(Service):
    """Performance, estimated and realised, calibration and fairness."""

    _monitors: Monitors
    _sight: Sight

    @action(post="/endpoints/{endpoint}/performance-reports", on="endpoint", reads_first=True)
    def performance(
        self,
        endpoint: EndpointName,
        label_table: Table,
        label: Column,
        *,
        on: On = "request_id",
        key: Column | None = None,
        recorded_at: Column | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        by: Period = "week",
        threshold: Share = 0.5,
        slice_by: Column | None = None,
        slice_of: SliceOf = "field",
        slice_edges: Edges = (),
        task: Task = "binary",
        classes: Classes = (),
    ) -> PerformanceReport:
        """Join predictions with labels that arrived late; figures by period, each with its band.

        Args:
            endpoint: which one.
            label_table: the lake table of the outcomes.
            label: its column of 0 and 1, or of what the task says.
            on: prediction_id, request_id or unit: what the label table names.
            key: its column of that; of the same name if left out.
            recorded_at: its column of when a label became known; the last one counts.
            since, until: the window; the last seven days if they are left out.
            by: day, week or month.
            threshold: a score from here on predicts label 1.
            slice_by: by what rows are told apart, beside all of them together.
            slice_of: field (of the request), input (of the model), log or label (table).
            slice_edges: where numbers are cut; quarters of the rows if left out.
            task: binary (labels 0 and 1), regression (numbers) or classes.
            classes: of these, the labels in the order of the outputs; their numbers if left out.
        """
        labels = _labels(label_table, label, on, key, recorded_at, task, classes)
        slices = () if slice_by is None else (_slice(slice_by, slice_of, slice_edges),)
        self._sight.check_labels(self.call, labels, *slices)
        for one in slices:
            self._sight.check_slice(self.call, endpoint, one)
        window = asked_window(self.call, since, until)
        _, report = self._monitors.performance(
            self.call, endpoint, labels, *window, by=by, threshold=threshold, slices=slices
        )
        return report

    @action(post="/endpoints/{endpoint}/estimates", on="endpoint", reads_first=True)
    def estimate(
        self,
        endpoint: EndpointName,
        *,
        since: Instant | None = None,
        until: Instant | None = None,
        by: Period = "day",
        threshold: Share = 0.5,
        exact: bool = False,
        label_table: Table | None = None,
        label: Column | None = None,
        on: On = "request_id",
        key: Column | None = None,
        recorded_at: Column | None = None,
        reference_since: Instant | None = None,
        reference_until: Instant | None = None,
        task: Task = "binary",
        classes: Classes = (),
    ) -> EstimateReport:
        """Tell what performance is to be expected of predictions whose labels are not known yet.

        Args:
            endpoint: which one.
            since, until: the window; the last seven days if they are left out.
            by: day, week or month.
            threshold: a score from here on predicts label 1.
            exact: read every row of the log, not the sketches of whole minutes in the window.
            label_table, label, on, key, recorded_at: where labels of an earlier window are, as
                for performance; the labels that the bundle keeps if left out.
            reference_since, reference_until: that earlier window.
            task: binary (labels 0 and 1) or classes, of which an earlier window is needed.
            classes: of these, the labels in the order of the outputs; their numbers if left out.
        """
        reference = self._reference(
            label_table, label, on, key, recorded_at, reference_since, reference_until, task,
            classes,
        )  # fmt: skip
        window = asked_window(self.call, since, until)
        _, report = self._monitors.assessments.estimate(
            self.call, endpoint, *window, by=by, threshold=threshold, exact=exact,
            reference=reference,
        )  # fmt: skip
        return report

    @action(post="/endpoints/{endpoint}/loss-estimates", on="endpoint", reads_first=True)
    def losses(
        self,
        endpoint: EndpointName,
        label_table: Table,
        label: Column,
        reference_since: Instant,
        reference_until: Instant,
        *,
        on: On = "request_id",
        key: Column | None = None,
        recorded_at: Column | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        by: Period = "week",
        task: Task = "binary",
    ) -> LossReport:
        """Tell what losses are to be expected, by a model that learns where this one errs.

        It reads a sample of rows with their inputs: at most 20,000 of each period.

        Args:
            endpoint: which one.
            label_table, label, on, key, recorded_at: where labels are, as for performance.
            reference_since, reference_until: an earlier window whose labels are known.
            since, until: the window; the last seven days if they are left out.
            by: day, week or month.
            task: binary (labels 0 and 1) or regression (numbers).
        """
        reference = self._reference(
            label_table, label, on, key, recorded_at, reference_since, reference_until, task
        )
        if reference is None:
            raise InvalidInput("A reference is needed.", hint="Name an earlier window.")
        self._sight.check_log(self.call, endpoint, ("features",))
        window = asked_window(self.call, since, until)
        _, report = self._monitors.assessments.losses(
            self.call, endpoint, reference, *window, by=by
        )
        return report

    @action(post="/endpoints/{endpoint}/calibration-reports", on="endpoint", reads_first=True)
    def calibration(
        self,
        endpoint: EndpointName,
        label_table: Table,
        label: Column,
        *,
        on: On = "request_id",
        key: Column | None = None,
        recorded_at: Column | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        by: Period = "week",
        bins: Bins = 10,
    ) -> CalibrationReport:
        """Tell by period whether scores come true as often as they say.

        Args:
            endpoint: which one.
            label_table, label, on, key, recorded_at: where labels are, as for performance.
            since, until: the window; the last seven days if they are left out.
            by: day, week or month.
            bins: into how many of nearly equal size the scores are put.
        """
        labels = _labels(label_table, label, on, key, recorded_at)
        self._sight.check_labels(self.call, labels)
        window = asked_window(self.call, since, until)
        _, report = self._monitors.assessments.calibration(
            self.call, endpoint, labels, *window, by=by, n_bins=bins
        )
        return report

    @action(post="/endpoints/{endpoint}/fairness-reports", on="endpoint", reads_first=True)
    def fairness(
        self,
        endpoint: EndpointName,
        group_by: Column,
        *,
        group_of: SliceOf = "field",
        group_edges: Edges = (),
        label_table: Table | None = None,
        label: Column | None = None,
        on: On = "request_id",
        key: Column | None = None,
        recorded_at: Column | None = None,
        since: Instant | None = None,
        until: Instant | None = None,
        by: Period = "week",
        threshold: Share = 0.5,
    ) -> FairnessReport:
        """Tell by period whether groups are treated alike; small groups are not shown.

        Args:
            endpoint: which one.
            group_by: what tells groups apart.
            group_of: field (of the request), input (of the model), log or label (table).
            group_edges: where numbers are cut; quarters of the rows if left out.
            label_table, label, on, key, recorded_at: where labels are, as for performance;
                without them only the shares predicted positive are compared.
            since, until: the window; the last seven days if they are left out.
            by: day, week or month.
            threshold: a score from here on predicts label 1.
        """
        groups = _slice(group_by, group_of, group_edges)
        labels = None
        if label_table is not None:
            labels = _labels(label_table, _named(label), on, key, recorded_at)
            self._sight.check_labels(self.call, labels, groups)
        self._sight.check_slice(self.call, endpoint, groups)
        window = asked_window(self.call, since, until)
        _, report = self._monitors.assessments.fairness(
            self.call, endpoint, groups, labels, *window, by=by, threshold=threshold
        )
        return report

    def _reference(
        self,
        table: str | None,
        label: str | None,
        on: On,
        key: str | None,
        recorded_at: str | None,
        since: datetime | None,
        until: datetime | None,
        task: Task = "binary",
        classes: tuple[str, ...] = (),
    ) -> LabelledWindow | None:
        plain = task == "binary" and not classes
        if plain and table is None and label is None and since is None and until is None:
            return None
        if table is None or since is None or until is None:
            raise InvalidInput(
                "A reference of labelled predictions is named in part.",
                hint="Give the label table, the label and both ends of the reference's window.",
            )
        labels = _labels(table, _named(label), on, key, recorded_at, task, classes)
        self._sight.check_labels(self.call, labels)
        return LabelledWindow(labels, since, until)


def _labels(
    table: str,
    label: str,
    on: On,
    key: str | None,
    recorded_at: str | None,
    task: Task = "binary",
    classes: tuple[str, ...] = (),
) -> Labels:
    try:
        return Labels(
            table=table, label=label, on=on, key=key, recorded_at=recorded_at, task=task,
            classes=classes,
        )  # fmt: skip
    except ValidationError as error:
        told = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"Labels cannot be told so: {told}.") from error


def _slice(by: str, of: SliceOf, edges: tuple[float, ...]) -> Slice:
    try:
        return Slice(by=by, of=of, edges=edges)
    except ValidationError as error:
        told = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"Rows cannot be told apart so: {told}.") from error


def _named(label: str | None) -> str:
    if label is None:
        raise InvalidInput(
            "The column of the labels is not named.", hint="Give `label` with the label table."
        )
    return label
