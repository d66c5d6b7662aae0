"""What a request is told: the text of a release's answers, around the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from falaj.kernel.clock import from_microseconds
from falaj.kernel.errors import FalajError
from falaj.serving.anomalies import Judged
from falaj.serving.explain import Explain
from falaj.serving.model import AnomalyPolicy, FeatureStatus
from falaj.serving.predictions import Outcome

if TYPE_CHECKING:
    from falaj.serving.model import Release
    from falaj.serving.plan import RequestPlan
    from falaj.serving.predictions import Parsed, Scored
    from falaj.serving.requests import Told
    from falaj.serving.variants import CompiledVariant, Vectors

Places = list[tuple[int, int]]
"""For each row its part and its place there."""
_Explained = list[dict[int, dict[str, Any]]]
"""For each part what is told of its rows, by their place in it: contributions, anomalies."""
_COSTLY = Explain.CONTRIBUTIONS | Explain.ANOMALY
_quoted = msgspec.json.Encoder().encode


class AnswerWriter:
    """Writes the answers of one release."""

    def __init__(self, release: Release, variants: Sequence[CompiledVariant]) -> None:
        self._variants = tuple(variants)
        self._tagged = release.anomalies is AnomalyPolicy.TAG
        self._head, self._item = _templates(release)
        self._tails = [
            f',"variant":"{one.variant.name}","model":"{one.label}"' + "}" for one in variants
        ]
        begin = f'{{"request_id":%s,{self._head.replace("%", "%%")}'
        tag = "%s" if self._tagged else ""
        self._lone = f"{begin}{self._item[:-1]}{tag}}}]}}"
        """The whole answer to a request of one row, where there is one variant; or by variant:"""
        self._lones = [
            f"{begin}{self._item[:-1]}{tag}{tail.replace('%', '%%')}]}}" for tail in self._tails
        ]

    def written(
        self,
        plan: RequestPlan,
        requests: list[Parsed],
        ids: list[str],
        parts: list[Scored],
        places: Places | None,
    ) -> list[Told | FalajError]:
        """What each request is told.

        Args:
            plan: of the release.
            requests: those that were scored together.
            ids: of all rows, in the order of the requests.
            parts: what each variant scored.
            places: for each row its part and its place there; None if there is one part.
        """
        scores: list[list[float]] = []
        finite = True
        if any(request.render is None for request in requests):
            scored = [part.vectors.outputs.tolist() for part in parts]
            scores = scored[0] if places is None else [scored[part][row] for part, row in places]
            finite = _finite(scores)
        tags = _tags(parts, places) if self._tagged and scores else None
        lones = [self._lone]
        if places is not None:
            lones = [self._lones[self._variants.index(part.variant)] for part in parts]
        answers: list[Told | FalajError] = []
        explained: _Explained | None = None
        place = 0
        for request in requests:
            end = place + len(request.rows)
            if request.explain & _COSTLY and explained is None:
                explained = [_explained(part) for part in parts]
            if request.request_id is None:
                request.request_id = ids[place]
                named = f'"{ids[place]}"'
            else:
                named = _quoted(request.request_id).decode()
            if request.render is not None:
                answers.append(self._rendered(plan, request, ids, parts, places, place))
            elif end - place == 1 and finite and not request.explain:
                lone = lones[0 if places is None else places[place][0]]
                more = scores[place] if tags is None else (*scores[place], tags[place])
                answers.append((lone % (named, ids[place], *more)).encode())
            else:
                items = [
                    self._told(
                        row, ids[row], scores[row], parts, places, request.explain, explained
                    )
                    for row in range(place, end)
                ]
                items = items if tags is None else _tagged(items, tags[place:end])
                answers.append(f'{{"request_id":{named},{self._head}{",".join(items)}]}}'.encode())
            place = end
        return answers

    def _told(
        self,
        row: int,
        one: str,
        scores: list[float],
        parts: list[Scored],
        places: Places | None,
        explain: int,
        explained: _Explained | None,
    ) -> str:
        """One row of an answer, without its tag."""
        item = self._item
        if not _finite([scores]):
            item = item.replace("%r", "%s")
            scores = [value if isfinite(value) else "null" for value in scores]  # type: ignore[misc]
        told = item % (one, *scores)
        which, place = (0, row) if places is None else places[row]
        part = parts[which]
        if places is not None:
            told = told[:-1] + self._tails[self._variants.index(part.variant)]
        if explain & Explain.FEATURES:
            shown = _quoted(_shown(part.vectors, place, part.variant)).decode()
            told = f'{told[:-1]},"features":{shown}}}'
        if explained is not None:
            for word, of in explained[which].get(place, {}).items():
                told = f'{told[:-1]},"{word}":{_quoted(of).decode()}}}'
        return told

    def _rendered(
        self,
        plan: RequestPlan,
        request: Parsed,
        ids: list[str],
        parts: list[Scored],
        places: Places | None,
        first: int,
    ) -> Told | FalajError:
        """The answer in the request's own protocol."""
        n = len(request.rows)
        if request.render is None:
            raise AssertionError
        if places is None:
            outputs = parts[0].vectors.outputs[first : first + n]
            labels = [parts[0].variant.label] * n
        else:
            where = places[first : first + n]
            outputs = np.stack([parts[part].vectors.outputs[row] for part, row in where])
            labels = [parts[part].variant.label for part, _ in where]

        def scored(row: int) -> tuple[CompiledVariant, NDArray[np.float32]]:
            which, place = (0, first + row) if places is None else places[first + row]
            return parts[which].variant, parts[which].vectors.matrix[place]

        judged = _judged(parts, places, first, n) if self._tagged else None
        outcome = Outcome(ids[first : first + n], outputs, labels, scored, judged)
        try:
            return request.render(plan, request, outcome)
        except FalajError as error:
            return error


def _explained(part: Scored) -> dict[int, dict[str, Any]]:
    """What is told of the rows of a part whose requests ask for it, by place."""
    found: dict[int, dict[str, Any]] = {}
    variant, matrix = part.variant, part.vectors.matrix
    if variant.explanation is not None:  # else parse has refused those requests
        places = _asking(part, Explain.CONTRIBUTIONS)
        told = variant.explanation.told(matrix[places]) if places else []
        for place, one in zip(places, told, strict=True):
            found.setdefault(place, {})["contributions"] = one
    if variant.judge is not None and part.vectors.judged is None:  # else every row has its tag
        places = _asking(part, Explain.ANOMALY)
        verdicts = variant.judge.judged(matrix[places]).told() if places else []
        for place, verdict in zip(places, verdicts, strict=True):
            found.setdefault(place, {})["anomaly"] = verdict
    return found


def _tags(parts: list[Scored], places: Places | None) -> list[str]:
    """The tag of each row, as text."""
    texts = [part.vectors.judged.texts() for part in parts if part.vectors.judged is not None]
    return texts[0] if places is None else [texts[part][row] for part, row in places]


def _tagged(items: list[str], tags: list[str]) -> list[str]:
    """Rows of an answer, with their tags at their ends."""
    return [f"{item[:-1]}{tag}}}" for item, tag in zip(items, tags, strict=True)]


def _judged(parts: list[Scored], places: Places | None, first: int, n: int) -> Judged:
    """The tags of the rows of one request."""
    found = [part.vectors.judged for part in parts if part.vectors.judged is not None]
    if places is None:
        return Judged(found[0].scores[first : first + n], found[0].anomalous[first : first + n])
    where = places[first : first + n]
    return Judged(
        np.array([found[part].scores[row] for part, row in where]),
        np.array([found[part].anomalous[row] for part, row in where]),
    )


def _asking(part: Scored, flag: int) -> list[int]:
    return [place for place, owner in enumerate(part.owners) if owner.explain & flag]


def _shown(vectors: Vectors, row: int, variant: CompiledVariant) -> dict[str, Any]:
    """The features of one row, for ``explain=features``."""
    shown: dict[str, Any] = {}
    for place, name in enumerate(variant.columns):
        value = float(vectors.matrix[row, place])
        feature: dict[str, Any] = {"value": value if isfinite(value) else None}
        if vectors.statuses is None:
            status = FeatureStatus.PRESENT if isfinite(value) else FeatureStatus.NULL
        else:
            status = FeatureStatus(int(vectors.statuses[row, place]))
        feature["status"] = status.name.lower()
        at = 0 if vectors.times is None else int(vectors.times[row, place])
        feature["event_time"] = from_microseconds(at).isoformat() if at else None
        shown[name] = feature
    return shown


def _finite(scores: list[list[float]]) -> bool:
    total = 0.0
    for row in scores:
        for value in row:
            total += value
    return total - total == 0.0


def _templates(release: Release) -> tuple[str, str]:
    head = f'"release":"{release.id}","model":"{release.model}","predictions":['
    numbers = ",".join(
        f"{_quoted(name).decode().replace('%', '%%')}:%r" for name in release.outputs
    )
    return head, f'{{"id":"%s",{numbers}}}'
