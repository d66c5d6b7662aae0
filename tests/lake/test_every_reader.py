"""No reader of the lake's rows forgets what its caller may see.

Rows leave a lake by four methods. Each module that calls one is listed here with the reason why
what it reads is no action's answer, or is checked first; a module that is not listed reads
through ``GuardedLake``. Each action that answers with rows or values is listed with the test
that shows it masking or refusing.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import falaj
from falaj.trust.duties import grouped
from falaj.wiring.services import service_classes

ROOT = Path(falaj.__file__).parent
ATTACKS = ROOT.parents[1] / "tests" / "attacks"
READS = {"scan", "batches", "log", "query"}
"""The methods of ``Lake`` that give rows."""
_CHECKED = "its action checks that the caller sees all of it in clear: "
READERS = {
    "lake/reading.py": "it lays masks and filters upon what it reads",
    "lake/sealing.py": "writes a table anew under the keys of its persons, and tells nothing of it",
    "ingest/tablechecks.py": "holds rows to contracts; examples of personal ones have no values",
    "features/index/indexes.py": _CHECKED + "features.read, training.*",
    "features/statistics.py": "figures, which features.statistics tells to who sees the columns",
    "features/streams/landing.py": "positions of partitions, no rows of anybody",
    "features/streams/streams.py": "checks pushed events against tables that contracts name",
    "training/spines.py": _CHECKED + "training.prepare, training.train, training.recreate",
    "training/pipelines/execution.py": "inputs of a step, behind check_clear for its principal",
    "training/training_sets.py": _CHECKED + "training.rows, training.train; gates tell figures",
    "monitoring/performance.py": _CHECKED + "monitors.performance, monitors.check",
    "monitoring/leakage.py": _CHECKED + "monitors.leakage, monitors.check",
    "monitoring/triggers.py": "counts labels, for a principal that may read them",
    "monitoring/drift.py": "figures over many predictions",
    "rollouts/exposures.py": "which variant each unit met; counts of them leave it",
    "rollouts/metrics.py": _CHECKED + "rollouts.start",
    "rollouts/servedtraffic.py": "ids of requests, as evidence of an incident; no field of any",
    "monitoring/laketables.py": _CHECKED + "monitors.drift_of_tables",
    "serving/batchinputs.py": _CHECKED + "endpoints.score",
    "serving/batchexport.py": "rows that the same caller's scoring has just made",
    "serving/served.py": "requests that parity checks compute again; figures leave it",
    "wiring/computeparts.py": "counts predictions, for a cost of a thousand",
    "serving/tracing.py": "endpoints.trace takes out what its caller does not see",
}
_STEPS = (
    "../training/pipelines/test_trust.py"
    "::test_what_a_step_gave_is_read_by_those_only_who_may_read_its_inputs"
)
_FILES = "test_files_with_personal_data_need_a_purpose_and_a_fresh_factor"
DATA = {
    "tables.read": "test_masks.py",
    "tables.query": "test_masks.py",
    "features.read": "test_masks.py",
    "training.rows": "test_masks.py",
    "models.export": "",  # a bundle: a model, no rows
    "pipelines.read": _STEPS,
    "runs.fetch_artifact": f"test_loggedmodels.py::{_FILES}",
    "loggedmodels.fetch_artifact": f"test_loggedmodels.py::{_FILES}",
}
"""Actions that answer with rows or values, and where it is shown that they mask or refuse: a file
that names the action, or one of its tests."""
COMPUTING = {
    "training.prepare": "test_masks.py",
    "training.train": "test_masked_serving.py",
    "training.recreate": "test_masks.py",
    "monitors.performance": "test_masks.py",
    "endpoints.score": "test_masked_serving.py",
    "endpoints.predict": "test_masked_serving.py",
    "endpoints.trace": "test_masked_serving.py",
}
"""Actions that compute with rows, or tell values beside their answer."""


def lake_reads(tree: ast.Module) -> list[str]:
    """The calls of a lake's reading methods, as they are written."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = ast.unparse(node.func.value)
        if node.func.attr in READS and owner.rpartition(".")[2].lstrip("_") == "lake":
            found.append(ast.unparse(node.func))
    return found


def lake_is_renamed(tree: ast.Module) -> bool:
    """True if a lake, or a method of one, is kept under a name that hides what it is."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute | ast.Name):
            told = ast.unparse(node.value).rpartition(".")[2].lstrip("_")
            names = [ast.unparse(one).rpartition(".")[2].lstrip("_") for one in node.targets]
            if told == "lake" and not set(names) <= {"lake"}:
                return True
    return False


def modules() -> list[Path]:
    outside = ("lake/adapters", "testing", "features/adapters")
    found = sorted(ROOT.rglob("*.py"))
    own = [one for one in found if not str(one.relative_to(ROOT)).startswith(outside)]
    return [one for one in own if "lake" in one.read_text(encoding="utf-8")]


def test_rows_of_the_lake_are_read_where_it_is_known_why() -> None:
    readers, renamed = set(), set()
    for module in modules():
        tree = ast.parse(module.read_text(encoding="utf-8"))
        if lake_reads(tree):
            readers.add(str(module.relative_to(ROOT)))
        if lake_is_renamed(tree):
            renamed.add(str(module.relative_to(ROOT)))
    assert readers == set(READERS), "read through GuardedLake, or say here why not"
    assert renamed == set()


def test_a_service_reads_no_rows_but_through_the_guarded_lake() -> None:
    for module in ROOT.rglob("*service.py"):
        assert not lake_reads(ast.parse(module.read_text(encoding="utf-8"))), module


def test_every_action_that_answers_with_rows_is_known_to_mask_them() -> None:
    actions = [one for service in service_classes().values() for one in service.actions()]
    data = {name for name, item in grouped(actions).items() if "data" in item.groups}
    assert data == set(DATA), "show how it masks, in tests/attacks/test_masks.py"


@pytest.mark.parametrize(("action", "file"), [*DATA.items(), *COMPUTING.items()])
def test_and_there_is_a_test_that_shows_it(action: str, file: str) -> None:
    if file:
        name, _, test = file.partition("::")
        wanted = f"def {test}(" if test else f'"{action}"'
        assert wanted in (ATTACKS / name).read_text(encoding="utf-8")
