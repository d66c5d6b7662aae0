"""The compiled request plan of a release: from a request's bytes to its answer's bytes.

Everything that can be decided once is decided when the plan is compiled: the decoder of
the body, where each model input comes from, the text of the answer around the numbers.
Requests that arrive together are scored together, in one run of the model.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from falaj.serving.answers import AnswerWriter, Places
from falaj.serving.assigning import Assigner
from falaj.serving.assignment import assigned, bounds, position
from falaj.serving.decoding import RequestDecoder
from falaj.serving.errors import FeaturesMissing
from falaj.serving.explain import Explain, no_forest, not_explained
from falaj.serving.model import FeatureStatus, MissingPolicy, Release
from falaj.serving.predictions import NumberRows, Parsed, PredictionIds, Scored
from falaj.serving.standingin import StandInFailed, Trial, in_the_place_of
from falaj.serving.variants import CompiledVariant, Looked, Vectors

if TYPE_CHECKING:
    from falaj.kernel.errors import FalajError
    from falaj.serving.requests import Told
    from falaj.serving.splits import Split

_NOTHING = Vectors(np.empty((0, 0), np.float32), None, None, np.empty((0, 0)))


class RequestPlan:
    """A release, compiled; made by a ``PlanCompiler``. Scores from one thread at a time.

    ``aside`` is its twin for a second thread: the same models, readers of its own.

    Args:
        release: what it serves.
        variants: those that answer.
        ids: makes the ids of its predictions.
        aside: its twin.
        shadows: the variants that run behind the answer, with readers of their own.
    """

    def __init__(
        self,
        release: Release,
        variants: Sequence[CompiledVariant],
        ids: PredictionIds,
        *,
        aside: RequestPlan | None = None,
        shadows: Sequence[CompiledVariant] = (),
    ) -> None:
        self.n_asked = 0
        """Requests that it was to score; counted on the event loop."""
        self._aside = aside  # no plan refers to itself, so that one that sleeps is gone at once
        self.release = release
        self.limits = release.limits
        self.variants = tuple(variants)
        """Those that may answer, the champion first."""
        self.shadows = tuple(shadows)
        self.waits = any(variant.waits for variant in self.variants)
        """A run waits for another process, so it belongs on a thread."""
        self._ids = ids
        alone = len(self.variants) == 1 and release.unit is None
        self.decoder = RequestDecoder(
            release,
            numbers=alone and all(one.takes_numbers for one in (*variants, *shadows)),
            check_explained=partial(_check_explained, self.variants),
        )
        self.parse = self.decoder.body
        """Decodes and checks a body; see ``RequestDecoder.body``."""
        self._uppers = bounds([variant.share for variant in release.variants])
        self.assigner: Assigner | None = None
        """Of a rollout: replaced whole when the split changes, never changed in place."""
        self.divide(None)
        self.unit = attrgetter(release.unit) if release.unit else None
        """The unit of a decoded row; None where the release has none."""
        self._answers = AnswerWriter(release, self.variants)
        readers = {id(variant.reader) for variant in self.variants}
        self._reads_once = len(readers) == 1 and self.variants[0].reads_features
        self._refuses = release.missing is MissingPolicy.REFUSE

    @property
    def row_type(self) -> Any:
        """The msgspec type of an input row."""
        return self.decoder.row_type

    @property
    def aside(self) -> RequestPlan:
        """The plan for a second thread."""
        return self._aside or self

    def divide(self, split: Split | None) -> None:
        """Divide the units by another split from now on; None: all meet the champion.

        Costs microseconds: nothing is compiled or loaded. A run that goes on keeps the split
        with which it began.
        """
        if self.release.assignment is not None:
            self.assigner = Assigner(self.release, split)
            if self._aside is not None:
                self._aside.assigner = self.assigner

    # -- parse ----------------------------------------------------------------------

    def parse_columns(
        self,
        columns: Mapping[str, Any],
        *,
        caller: str,
        started: float,
        request_id: str | None = None,
        at_us: int | None = None,
        explain: int = 0,
    ) -> Parsed:
        """Check a request that came as columns; see ``RequestDecoder.columns``."""
        return self.decoder.columns(
            columns,
            caller=caller,
            started=started,
            request_id=request_id,
            at_us=at_us,
            explain=explain,
        )

    # -- score ----------------------------------------------------------------------

    def score(self, requests: list[Parsed]) -> tuple[list[Told | FalajError], list[Scored]]:
        """Score requests in one run of each variant; each is answered as of its own instant.

        Returns:
            for each request its answer (JSON) or why it gets none; and the rows that were
            answered, by variant.

        Raises:
            FalajError: none of them could be scored.
            StandInFailed: nor could they, after a challenger had failed on some.
        """
        requested_us = time.time_ns() // 1000
        first = requests[0].at_us
        at_us = requested_us if first is None else first
        instants: NDArray[np.int64] | None = None
        rows: Sequence[Any]
        if len(requests) == 1:
            rows = requests[0].rows
            owners = requests * len(rows)
        else:
            rows = self._joined(requests)
            owners = [request for request in requests for _ in range(len(request.rows))]
            if any(request.at_us != first for request in requests):
                asked = [requested_us if one.at_us is None else one.at_us for one in owners]
                instants = np.array(asked, np.int64)
        ids = self._ids.block(len(rows), requested_us)
        whole = Scored(
            self.release, self.variants[0], _NOTHING, ids, owners, rows, at_us, requested_us, 0.0,
            instants,
        )  # fmt: skip
        if len(self.variants) == 1:
            whole.vectors = self.variants[0].run(rows, at_us if instants is None else instants)
            parts, places = [whole], None
        else:
            parts, places = self._split(whole)
        answers = self._answers.written(self, requests, ids, parts, places)
        if self._refuses:
            self._refuse_incomplete(requests, answers, parts)
        done = time.perf_counter()
        for part in parts:
            part.done = done
        return answers, parts

    def _joined(self, requests: list[Parsed]) -> Sequence[Any]:
        """The rows of several requests, of one kind."""
        numbers = [request.rows for request in requests if isinstance(request.rows, NumberRows)]
        if not numbers:
            return [row for request in requests for row in request.rows]
        if len(numbers) == len(requests):
            return NumberRows.joined(numbers)
        make = self.decoder.row_type
        return [
            make(**row) if isinstance(request.rows, NumberRows) else row
            for request in requests
            for row in request.rows
        ]

    def _split(self, whole: Scored) -> tuple[list[Scored], Places]:
        """Score each variant's rows; also where each row went."""
        of_each: list[list[int]] = [[] for _ in self.variants]
        for place, which in enumerate(self._assigned(whole)):
            of_each[which].append(place)
        at = whole.at_us if whole.instants is None else whole.instants
        looked = self.variants[0].look(whole.rows, at) if self._reads_once else None
        runs: list[tuple[list[int], Scored]] = []
        failed: dict[str, list[tuple[Parsed, Any]]] = {}
        left: list[int] = []
        for variant, mine in zip(self.variants[1:], of_each[1:], strict=True):
            if not mine:
                continue
            if self.assigner is None:
                runs.append((mine, _run_part(whole, variant, mine, looked)))
                continue
            run = partial(_run_part, whole, variant, looked=looked)
            tried = in_the_place_of(failed, partial(Trial, run, whole.owners, mine))
            runs += tried.runs
            left += tried.left
            if tried.failed:
                failed[variant.variant.name] = [
                    (whole.owners[place], whole.rows[place]) for place in tried.failed
                ]
        if of_each[0] or left:
            mine = sorted(of_each[0] + left)
            part = in_the_place_of(
                failed, partial(_run_part, whole, self.variants[0], mine, looked)
            )
            if failed:
                part.failed = failed
                if self.assigner is not None and self.assigner.leaves_champion:
                    part.stood_in = frozenset(id(whole.owners[place]) for place in left)
            runs.insert(0, (mine, part))
        places: Places = [(0, 0)] * len(whole.rows)
        for number, (mine, _) in enumerate(runs):
            for row, place in enumerate(mine):
                places[place] = number, row
        return [part for _, part in runs], places

    def _assigned(self, whole: Scored) -> list[int]:
        """The place of the variant that each row meets."""
        rows = whole.rows
        if self.assigner is not None:
            return self.assigner.variants(rows, whole.requested_us) or [0] * len(rows)
        uppers, unit, salt = self._uppers, self.unit, self.release.endpoint
        return [assigned(uppers, position(salt, unit(row) if unit else 0)) for row in rows]

    def _refuse_incomplete(
        self, requests: list[Parsed], answers: list[Told | FalajError], parts: list[Scored]
    ) -> None:
        """Refuse the requests that lack a feature, and take their rows from the log.

        Raises:
            StandInFailed: none is left, and a challenger had failed on some.
        """
        lacking: dict[int, set[str]] = {}
        for part in parts:
            statuses = part.vectors.statuses
            if statuses is None:
                continue
            absent = (statuses != FeatureStatus.PRESENT) & np.isnan(part.vectors.matrix)
            absent[:, part.variant.from_request] = False
            for row, column in np.argwhere(absent).tolist():
                names = lacking.setdefault(id(part.owners[row]), set())
                names.add(part.variant.columns[column])
        if not lacking:
            return
        for index, request in enumerate(requests):
            if id(request) in lacking:
                named = sorted(lacking[id(request)])
                answers[index] = FeaturesMissing(
                    f"No fresh value of {', '.join(named)} for this input.",
                    hint="Push the features, or let the endpoint serve with missing=model.",
                    features=named,
                )
        failed = next((part.failed for part in parts if part.failed), None)
        parts[:] = [kept for part in parts if (kept := _without(part, lacking.keys())).ids]
        if failed is None or any(part.failed for part in parts):
            return
        if not parts:
            refused = next(one for one in answers if isinstance(one, Exception))
            raise StandInFailed(refused, failed)
        parts[0].failed = failed  # they are counted with what is answered, whichever it is


def _run_part(
    whole: Scored, variant: CompiledVariant, mine: list[int], looked: Looked | None
) -> Scored:
    """Score some of the rows, by their places, ascending, with one variant."""
    instants = whole.instants
    if len(mine) < len(whole.rows):
        part = Scored(
            whole.release, variant, _NOTHING, [whole.ids[place] for place in mine],
            [whole.owners[place] for place in mine], [whole.rows[place] for place in mine],
            whole.at_us, whole.requested_us, 0.0, None if instants is None else instants[mine],
        )  # fmt: skip
    else:
        part, whole.variant = whole, variant
    part.vectors = variant.run(
        part.rows,
        part.at_us if part.instants is None else part.instants,
        None if looked is None else looked.only(mine),
    )
    return part


def _check_explained(variants: Sequence[CompiledVariant], explain: int) -> None:
    for variant in variants:
        if explain & Explain.CONTRIBUTIONS and variant.explanation is None:
            raise not_explained(variant.label)
        if explain & Explain.ANOMALY and variant.judge is None:
            raise no_forest(variant.label)


def _without(part: Scored, refused: Collection[int]) -> Scored:
    """The part without the rows of the refused requests (by identity)."""
    return part.only([place for place, owner in enumerate(part.owners) if id(owner) not in refused])
