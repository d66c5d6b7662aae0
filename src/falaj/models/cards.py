"""Model cards: Markdown made from evidence, not written by hand."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from falaj.kernel.errors import NotFound
from falaj.models.model import GateReport, Manifest, ModelPolicy, Move, Outcome

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from falaj.models.bundles import Bundles
    from falaj.models.registry import Registry

_MARKS = {Outcome.PASSED: "passed", Outcome.FAILED: "**failed**", Outcome.SKIPPED: "skipped"}
_MOST_INPUTS = 12


def card(
    manifest: Manifest,
    *,
    version: int | None = None,
    owner: str | None = None,
    policy: ModelPolicy | None = None,
    report: GateReport | None = None,
    moves: Iterable[Move] = (),
) -> str:
    """The card of a version.

    Args:
        manifest: of its bundle.
        policy: for what it is and is not meant.
        report: of its latest gates.
        moves: which stages it took.
    """
    title = manifest.model if version is None else f"{manifest.model}, version {version}"
    parts = [f"# {_text(title)}", *_purpose(manifest, policy, owner)]
    parts += ["## Quality", *_quality(manifest, report)]
    parts += ["## Inputs", *_inputs(manifest)]
    parts += ["## Where it comes from", *_origin(manifest)]
    history = [
        f"| {move.at:%Y-%m-%d %H:%M} | {move.from_stage} → {move.to_stage} | "
        f"{_cell(move.asked_by)} | {_cell(move.approved_by)} | {_cell(move.reason)} |"
        for move in moves
    ]
    if history:
        parts += ["## Approvals", "\n".join(
            ["| when (UTC) | move | asked by | approved by | why |", "|---|---|---|---|---|",
             *history])]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def version_card(
    connection: Connection, registry: Registry, bundles: Bundles, name: str, version: int
) -> str:
    """The card of a registered version from its bundle, policy, latest gates and moves.

    Raises:
        NotFound, Corrupt: there is no such version, or its bundle does not verify.
    """
    found = registry.bundled(connection, name, version)
    try:
        policy = registry.policy(connection, name)
    except NotFound:
        policy = None
    return card(
        bundles.open_bundle(found.bundle).manifest,
        version=version,
        owner=found.created_by,
        policy=policy,
        report=registry.report(connection, name, version),
        moves=[move for move in registry.history(connection, name) if move.version == version],
    )


def _purpose(manifest: Manifest, policy: ModelPolicy | None, owner: str | None) -> list[str]:
    parts = [f"Predicts the probability of `{_cell(manifest.signature.label)}`."]
    if policy is not None:
        parts += [_text(policy.description)] if policy.description else []
        parts += ["## Intended use", _text(policy.intended_use) or "Not declared."]
        parts += ["## Limits", _text(policy.limitations) or "Not declared."]
        owner = policy.owner or owner
    if owner:
        parts.append(f"Owner: {_text(owner)}")
    return parts


def _quality(manifest: Manifest, report: GateReport | None) -> list[str]:
    rows = ["| metric | value |", "|---|---|"]
    rows += [f"| {_cell(name)} | {value:.4f} |" for name, value in sorted(manifest.metrics.items())]
    parts = ["\n".join(rows)]
    if report is None:
        return [*parts, "No gate has been run."]
    lines = ["| gate | outcome | evidence |", "|---|---|---|"]
    lines += [
        f"| {_cell(result.gate)} | {_MARKS[result.outcome]} | {_cell(result.message)} |"
        for result in report.results
    ]
    verdict = "all passed" if report.passed else "not passed"
    return [*parts, f"Gates of {report.at:%Y-%m-%d %H:%M} UTC: {verdict}.", "\n".join(lines)]


def _inputs(manifest: Manifest) -> list[str]:
    features = manifest.signature.encoding.features
    ranked = sorted(features, key=lambda one: -manifest.importance.get(one.name, 0.0))
    lines = ["| input | type | share of the gain |", "|---|---|---|"]
    lines += [
        f"| {_cell(one.name)} | {one.type} | {manifest.importance.get(one.name, 0.0):.3f} |"
        for one in ranked[:_MOST_INPUTS]
    ]
    rest = len(features) - _MOST_INPUTS
    note = [f"And {rest} more."] if rest > 0 else []
    return [
        f"{len(features)} inputs from the feature service `{_cell(manifest.feature_service)}` "
        f"(`{manifest.feature_service_fingerprint[:12]}`).",
        "\n".join(lines),
        *note,
    ]


def _origin(manifest: Manifest) -> list[str]:
    parent, brought = manifest.parent, manifest.brought
    made = [] if parent is None else [
        f"- made from version {parent.version} ({parent.made_by}): scores differ by at most "
        f"{parent.worst_difference:.4f} on {parent.n_rows} rows, {parent.bytes:,} bytes in the "
        f"place of {parent.parent_bytes:,}"
    ]  # fmt: skip
    if brought is not None:
        until = (
            f"{brought.trained_until:%Y-%m-%d %H:%M} UTC" if brought.trained_until else "unknown"
        )
        judged = f"`{manifest.training_set}`" if manifest.training_set else "none"
        lines = [
            f"- trained elsewhere, brought by {_text(brought.by)} as `{_text(brought.file)}` "
            f"(`{brought.sha256[:12]}`), format {manifest.model_format}",
            f"- training rows until: {until}",
            f"- judged on the training set: {judged}",
            *([f"- {_cell(brought.note)}"] if brought.note else []),
            *made,
            f"- packaged {manifest.created_at:%Y-%m-%d %H:%M} UTC",
        ]
        return ["\n".join(lines)]
    return [
        "\n".join(
            [
                f"- run `{manifest.run}`, trainer `{manifest.trainer}`",
                f"- training set `{manifest.training_set}` ({manifest.training_set_hash[:19]}…)",
                f"- lake snapshot {manifest.snapshot}",
                *made,
                f"- packaged {manifest.created_at:%Y-%m-%d %H:%M} UTC",
            ]
        )
    ]


def _text(text: str) -> str:
    """Text without what Markdown or HTML would read as markup of its own."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("`", "'").strip()


def _cell(text: str) -> str:
    """Text for a table's cell, on one line."""
    return _text(" ".join(text.split())).replace("|", "\\|")
