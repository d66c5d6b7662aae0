"""Plans and lineage as text and trees for a terminal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.tree import Tree

from falaj.catalog.planning import FieldChange, Plan, Step

if TYPE_CHECKING:
    from falaj.catalog.model import Lineage
    from falaj.serving.model import TraceNode

_SIGNS = {Step.CREATE: "[green]+[/]", Step.UPDATE: "[yellow]~[/]", Step.KEPT: "[dim]·[/]"}
_LONGEST = 70


def plan_lines(plan: Plan) -> Iterator[str]:
    """A plan as lines of markup: ``+`` created, ``~`` changed, ``·`` kept though undeclared."""
    for item in plan.items:
        if item.step is Step.UNCHANGED:
            continue
        note = " (no longer declared; kept)" if item.step is Step.KEPT else f" v{item.version}"
        yield f"{_SIGNS[item.step]} {item.kind} [bold]{escape(item.name)}[/]{note}"
        for change in item.changes:
            before, after = (_short(value) for value in (change.before, change.after))
            yield f"    {change.field}: {escape(before)} → {escape(after)}{_judged(change)}"
        for obstacle in item.obstacles:
            yield f"    [bold red]![/] {escape(obstacle)}"
        if item.obstacles:
            yield f"    [bold]→[/] {escape(item.way_out)}"


def _judged(change: FieldChange) -> str:
    if change.compatible is None:
        return f"  {escape(change.why)}" if change.why else ""
    word = "[green]compatible[/]" if change.compatible else "[red]incompatible[/]"
    return f"  {word}: {escape(change.why)}"


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def lineage_tree(lineage: Lineage) -> Tree:
    """A walk through the lineage graph as a tree."""
    tree = Tree(f"[bold]{escape(str(lineage.root.ref))}[/]")
    stack = [(tree, lineage.root)]
    while stack:
        branch, node = stack.pop()
        for child in node.branches:
            again = " …" if child.repeated else ""
            label = f"[dim]{escape(str(child.relation))}[/] {escape(str(child.ref))}{again}"
            stack.append((branch.add(label), child))
    if lineage.truncated:
        tree.add("[dim]… and more: the walk stopped at its limit[/]")
    return tree


def trace_tree(trace: TraceNode, *, show: Mapping[str, Sequence[str]] | None = None) -> Tree:
    """The way of one prediction back to its source rows, as a tree.

    Args:
        trace: the walk.
        show: by kind of step, the facts to tell; steps of other kinds are left out with
            all beyond them. All steps and facts, if None.
    """
    tree = Tree(_step(trace, show))
    stack = [(tree, trace)]
    while stack:
        branch, node = stack.pop()
        for cause in node.causes:
            if show is None or cause.kind in show:
                stack.append((branch.add(_step(cause, show)), cause))
    return tree


def _step(node: TraceNode, show: Mapping[str, Sequence[str]] | None) -> str:
    relation = f"[dim]{escape(node.relation)}[/] " if node.relation else ""
    kept = (
        node.facts
        if show is None
        else {name: node.facts[name] for name in show[node.kind] if name in node.facts}
    )
    facts = ", ".join(f"{name} {_short(value)}" for name, value in kept.items() if value)
    told = f"  [dim]{escape(facts)}[/]" if facts else ""
    return f"{relation}[bold]{escape(node.kind)}[/] {escape(node.key)}{told}"
