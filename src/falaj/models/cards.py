"""Model cards: made from evidence, not written by hand; as Markdown and as a page of HTML.

The parts are those of Mitchell et al., Model Cards for Model Reporting (FAT* 2019), as far as the
platform knows them: from the policy what a model is for and whose it is, from the bundle what it
is, from the latest gates how good it is, and for whom.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from falaj.kernel.errors import NotFound
from falaj.models.aliases import alias_moves
from falaj.models.cardforms import Code, Grid, Items, Line, Section, Strong, Written, paragraphs
from falaj.models.cardquality import fairness_section, quality_section, slices_section
from falaj.models.model import (
    AliasMove,
    GateReport,
    GateResult,
    Manifest,
    ModelPolicy,
    Move,
)
from falaj.training.model import TimeSplit, TrainingSet
from falaj.training.spines import PARTS
from falaj.training.splits import GroupSplit

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.models.attestation import Attestation
    from falaj.models.bundles import Bundles
    from falaj.models.registry import Registry
    from falaj.training.training_sets import TrainingSets

_MOST_INPUTS = 12
_MOST_PARAMETERS = 30
_KNOWN = {"recorded": "they had been recorded by", "event": "they had happened by"}
_CODE = "urn:falaj:code:"
_NOT_DECLARED: Line = ("Not declared.",)


@dataclass(frozen=True)
class CardFacts:
    """All that a card is made of; what is not known is left out, and said to be."""

    manifest: Manifest
    version: int | None = None
    owner: str | None = None
    """Who made the version, where the policy names no owner."""
    policy: ModelPolicy | None = None
    results: tuple[GateResult, ...] = ()
    report: GateReport | None = None
    moves: tuple[Move, ...] = ()
    alias_moves: tuple[AliasMove, ...] = ()
    description: str = ""
    """Of the version, as somebody wrote it."""
    training_set: TrainingSet | None = None
    attestation: Attestation | None = None


def card(
    manifest: Manifest,
    *,
    version: int | None = None,
    owner: str | None = None,
    policy: ModelPolicy | None = None,
    report: GateReport | None = None,
    moves: Iterable[Move] = (),
) -> str:
    """The card of a version as Markdown; see ``written``."""
    facts = CardFacts(
        manifest,
        version=version,
        owner=owner,
        policy=policy,
        results=report.results if report else (),
        report=report,
        moves=tuple(moves),
    )
    return written(facts).markdown()


def written(facts: CardFacts) -> Written:
    """The card of a version, to be given one of its forms."""
    manifest = facts.manifest
    title = manifest.model
    if facts.version is not None:
        title = f"{manifest.model}, version {facts.version}"
    sections = [
        *_purpose(facts),
        quality_section(manifest, facts.results, facts.report),
        *slices_section(facts.results),
        *fairness_section(facts.results),
        _data(facts),
        _inputs(manifest),
        Section("Where it comes from", tuple(_origin(facts))),
        *_approvals(facts.moves),
        *_aliases(facts),
    ]
    return Written(title, tuple(sections))


class Cards:
    """Gathers what there is to tell of registered versions."""

    def __init__(self, registry: Registry, bundles: Bundles, training_sets: TrainingSets) -> None:
        self._registry = registry
        self._bundles = bundles
        self._training_sets = training_sets

    def of(self, connection: Connection, name: str, version: int) -> Written:
        """The card of a version, from today's evidence.

        Raises:
            NotFound, Corrupt: there is no such version, or its bundle does not verify.
        """
        found = self._registry.bundled(connection, name, version)
        try:
            policy = self._registry.policy(connection, name)
        except NotFound:
            policy = None
        report = self._registry.report(connection, name, version)
        bundle = self._bundles.open_bundle(found.bundle)
        moves = self._registry.history(connection, name)
        facts = CardFacts(
            bundle.manifest,
            version=version,
            owner=found.created_by,
            policy=policy,
            results=report.results if report else (),
            report=report,
            moves=tuple(move for move in moves if move.version == version),
            alias_moves=tuple(
                one
                for one in alias_moves(connection, name)
                if version in (one.from_version, one.to_version)
            ),
            description=found.description,
            training_set=self._set(connection, found.training_set),
            attestation=bundle.attestation,
        )
        return written(facts)

    def _set(self, connection: Connection, training_set: str) -> TrainingSet | None:
        try:
            return self._training_sets.get(connection, training_set) if training_set else None
        except NotFound:
            return None


def _purpose(facts: CardFacts) -> list[Section]:
    label, policy, owner = facts.manifest.signature.label, facts.policy, facts.owner
    target = facts.manifest.signature.target
    what = {
        "binary": "the probability of ",
        "regression": "the number ",
        "classes": f"to which of {len(target.classes)} classes a row belongs by ",
    }[target.task]
    first: list[Line] = [(f"Predicts {what}", Code(label), ".")]
    sections: list[Section] = []
    first += paragraphs(facts.description)
    if policy is not None:
        first += paragraphs(policy.description)
        use = paragraphs(policy.intended_use) or [_NOT_DECLARED]
        limits = paragraphs(policy.limitations) or [_NOT_DECLARED]
        sections = [Section("Intended use", tuple(use)), Section("Limits", tuple(limits))]
        owner = policy.owner or owner
    if owner:
        sections.append(Section("Owner", ((owner,),)))
    return [Section("", tuple(first)), *sections]


def _data(facts: CardFacts) -> Section:
    manifest, made = facts.manifest, facts.training_set
    if manifest.brought is not None and made is None:
        return Section("Data", (("The platform knows none of the rows that it learned from.",),))
    lines: list[Line] = []
    if manifest.training_set_hash:
        lines += [
            ("training set ", Code(manifest.training_set), ", content ",
             Code(f"{manifest.training_set_hash[:19]}…")),
            (f"lake snapshot {manifest.snapshot}",),
        ]  # fmt: skip
    if made is None:
        return Section("Data", (Items(tuple(lines)),))
    lines.append(
        (
            "asked at ",
            Code(made.spec.timestamp),
            f", features as {_KNOWN[made.spec.knowledge]} then",
        )
    )
    if made.purpose or made.permitted_purposes is not None:
        permitted = ", ".join(made.permitted_purposes or ()) or "anything"
        lines.append((f"made for {made.purpose or 'no stated purpose'}; permits {permitted}",))
    lines += _cut(made)
    spans = _spans(made)
    rows = tuple(
        (part, spans.get(part, ""), f"{made.n_rows.get(part, 0):,}",
         f"{made.positive_rate[part]:.3f}" if part in made.positive_rate else "")
        for part in PARTS
        if part in made.n_rows
    )  # fmt: skip
    blocks = [Items(tuple(lines))]
    grid = Grid(("part", "span (UTC)", "rows", "rate of 1"), rows)
    return Section("Data", (*blocks, grid) if rows else tuple(blocks))


def _cut(made: TrainingSet) -> list[Line]:
    """How its rows were cut into parts."""
    split = made.spec.split
    if split is None:
        return []
    if isinstance(split, GroupSplit):
        return [("cut by groups of ", Code(split.group), ": no group is in two parts")]
    if isinstance(split, TimeSplit):
        return [("cut by time",)]
    return [("cut by chance, each part with the same share of each label",)]


def _spans(made: TrainingSet) -> dict[str, str]:
    split = made.spec.split
    if not isinstance(split, TimeSplit):
        return {}

    def told(since: object, until: object) -> str:
        return f"{since or 'the first row'} to {until or 'the last row'}"

    def day(at: object) -> str | None:
        return None if at is None else f"{at:%Y-%m-%d %H:%M}"

    bounds = [split.train_from, split.train_until, split.validation_until, split.test_until]
    known = [day(at) for at in bounds]
    return {part: told(known[place], known[place + 1]) for place, part in enumerate(PARTS)}


def _inputs(manifest: Manifest) -> Section:
    features = manifest.signature.encoding.features
    ranked = sorted(features, key=lambda one: -manifest.importance.get(one.name, 0.0))
    rows = tuple(
        (one.name, str(one.type), f"{manifest.importance.get(one.name, 0.0):.3f}")
        for one in ranked[:_MOST_INPUTS]
    )
    rest = len(features) - _MOST_INPUTS
    told: Line = (
        f"{len(features)} inputs from the feature service ",
        Code(manifest.feature_service),
        " (",
        Code(manifest.feature_service_fingerprint[:12] or "unknown"),
        ").",
    )
    grid = Grid(("input", "type", "share of the gain"), rows)
    more: tuple[Line, ...] = ((f"And {rest} more.",),) if rest > 0 else ()
    return Section("Inputs", (told, grid, *more))


def _origin(facts: CardFacts) -> Sequence[Items | Grid | Line]:
    manifest = facts.manifest
    parent, brought = manifest.parent, manifest.brought
    lines: list[Line] = []
    if brought is not None:
        at = brought.trained_until
        until = f"{at:%Y-%m-%d %H:%M} UTC" if at else "unknown"
        judged: Line = (Code(manifest.training_set),) if manifest.training_set else ("none",)
        lines += [
            (f"trained elsewhere, brought by {brought.by} as ", Code(brought.file), " (",
             Code(brought.sha256[:12]), f"), format {manifest.model_format}"),
            (f"training rows until: {until}",),
            ("judged on the training set: ", *judged),
        ]  # fmt: skip
        lines += [(brought.note,)] if brought.note else []
    else:
        lines.append(("run ", Code(manifest.run), ", trainer ", Code(manifest.trainer)))
    if parent is not None:
        lines.append(
            (f"made from version {parent.version} ({parent.made_by}): scores differ by at most "
             f"{parent.worst_difference:.4f} on {parent.n_rows} rows, {parent.bytes:,} bytes in "
             f"the place of {parent.parent_bytes:,}",)
        )  # fmt: skip
    lines += [] if facts.version is None else _attested(facts.attestation)
    lines.append((f"packaged {manifest.created_at:%Y-%m-%d %H:%M} UTC",))
    return [Items(tuple(lines)), *_parameters(facts.attestation)]


def _attested(attestation: Attestation | None) -> list[Line]:
    """What the bundle attests of who asked for it, and of the code."""
    if attestation is None:
        return [(Strong("nothing attests how it was made"),)]
    definition = attestation.predicate.definition
    asked = definition.internal.get("asked_by")
    lines: list[Line] = [(f"attested: asked for by {asked}",)] if asked else [("attested",)]
    lines += [
        ("code ", Code(one.uri.removeprefix(_CODE)), ", content ",
         Code(one.digest.get("sha256", "unknown")[:12]),
         *((", commit ", Code(one.digest["gitCommit"][:12])) if "gitCommit" in one.digest else ()))
        for one in definition.dependencies
        if one.uri.startswith(_CODE)
    ]  # fmt: skip
    return lines


def _parameters(attestation: Attestation | None) -> list[Grid]:
    if attestation is None:
        return []
    given = attestation.predicate.definition.external.get("params")
    if not isinstance(given, dict) or not given:
        return []
    rows = tuple((str(k), str(v)) for k, v in sorted(given.items())[:_MOST_PARAMETERS])
    return [Grid(("parameter", "value"), rows)]


def _approvals(moves: Iterable[Move]) -> list[Section]:
    rows = tuple(
        (f"{move.at:%Y-%m-%d %H:%M}", f"{move.from_stage} → {move.to_stage}", move.asked_by,
         move.approved_by, move.reason, Code(move.change), move.gate_report or "none")
        for move in moves
    )  # fmt: skip
    if not rows:
        return []
    heads = ("when (UTC)", "move", "asked by", "approved by", "why", "change", "gate report")
    return [Section("Approvals", (Grid(heads, rows),))]


def _aliases(facts: CardFacts) -> list[Section]:
    rows = tuple(
        (f"{move.at:%Y-%m-%d %H:%M}", move.alias,
         "taken" if move.to_version == facts.version else "given up", move.asked_by,
         move.approved_by or "nobody had to", move.reason)
        for move in facts.alias_moves
    )  # fmt: skip
    heads = ("when (UTC)", "alias", "what", "asked by", "approved by", "why")
    return [Section("Aliases", (Grid(heads, rows),))] if rows else []
