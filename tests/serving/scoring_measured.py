"""Scores all parts of a table and prints the size of this process; see test_batchpart.py."""

import resource
import sys
from pathlib import Path

from falaj.kernel.clock import SystemClock
from falaj.lake.adapters.lake_ducklake import DuckLake
from falaj.serving.adapters.runtime_onnx import OnnxRuntime
from falaj.serving.batchinputs import table_batches, table_slices
from falaj.serving.batchmodel import ScoreRequest
from falaj.serving.batchpart import PartScorer
from falaj.serving.batchscoring import BatchPlan
from falaj.serving.compiler import PlanCompiler
from falaj.serving.model import FieldType, RequestField, ServableModel
from falaj.testing.serving import MemoryBundles, make_release


def main(folder, model, table):
    """Score a table; its columns are the fields."""
    lake = DuckLake.in_folder(Path(folder), threads=1)
    snapshot = lake.latest()
    names = lake.schema(table).names
    bundles = MemoryBundles(
        {"sha256:a": ServableModel("onnx", Path(model).read_bytes(), tuple(names))}
    )
    fields = tuple(RequestField(name=name, type=FieldType.FLOAT) for name in names)
    release = make_release(fields=fields)
    plan = BatchPlan(PlanCompiler(bundles, [OnnxRuntime(device="cpu")], None).compile(release))
    request = ScoreRequest(endpoint="delays", release=release.id, to="scored", table=table)

    def opened(part, columns):
        return table_batches(lake, part, snapshot, columns)

    scorer = PartScorer(
        request, f"job_{0:032x}", release, plan, opened, names, as_text=False, clock=SystemClock()
    )
    n_rows = sum(scorer.scored(part).num_rows for part in table_slices(lake, table, snapshot))
    print(n_rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)


if __name__ == "__main__":
    main(*sys.argv[1:])
