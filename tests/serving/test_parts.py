"""The small parts of serving: assignment, ids, the routing table, ONNX Runtime."""

from __future__ import annotations

import json
import multiprocessing
import threading
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from falaj.kernel.errors import Corrupt, InvalidInput, NotFound
from falaj.kernel.ids import is_id
from falaj.serving.adapters.runtime_onnx import OnnxRuntime, chosen_providers
from falaj.serving.assignment import assigned, bounds, position
from falaj.serving.compiler import PlanCompiler
from falaj.serving.errors import RoutingDamaged
from falaj.serving.model import Endpoint, RequestField, Variant
from falaj.serving.plans import Plans
from falaj.serving.predictions import PredictionIds
from falaj.serving.routing import RoutingTable
from falaj.testing.runtimes import RuntimeSuite
from falaj.testing.serving import MemoryBundles, make_release, servable


class TestOnnxRuntime(RuntimeSuite):
    """ONNX Runtime keeps the promises of a runtime."""

    @pytest.fixture
    def runtime(self) -> OnnxRuntime:
        return OnnxRuntime(device="cpu")

    @pytest.fixture
    def model(self):  # type: ignore[no-untyped-def]
        return servable(0)


def test_the_best_provider_that_is_there_is_chosen() -> None:
    cpu, cuda = "CPUExecutionProvider", "CUDAExecutionProvider"
    assert chosen_providers([cpu]) == [cpu]
    assert chosen_providers([cpu, "OpenVINOExecutionProvider", cuda]) == [
        cuda, "OpenVINOExecutionProvider", cpu,
    ]  # fmt: skip
    assert chosen_providers([cuda, cpu], "cpu") == [cpu]
    assert chosen_providers([cuda, cpu], "gpu") == [cuda, cpu]
    assert chosen_providers(["AzureExecutionProvider"]) == [cpu]
    with pytest.raises(InvalidInput, match="no provider"):
        chosen_providers([cpu], "gpu")
    with pytest.raises(InvalidInput, match="'tpu'"):
        chosen_providers([cpu], "tpu")


def test_assignment_is_uniform_and_independent_of_another_salt() -> None:
    uppers = bounds([0.3, 0.7])
    first = [assigned(uppers, position("one", unit)) for unit in range(4000)]
    second = [assigned(uppers, position("two", unit)) for unit in range(4000)]
    assert np.mean(first) == pytest.approx(0.7, abs=0.03)
    assert np.corrcoef(first, second)[0, 1] == pytest.approx(0, abs=0.05)
    assert assigned(uppers, 0.999999) == 1
    assert assigned((0.5, 0.9), 0.95) == 1


def test_growing_a_share_moves_no_unit_out_of_it() -> None:
    for unit in range(500):
        at = position("salt", unit)
        if assigned(bounds([0.1, 0.9]), at) == 0:
            assert assigned(bounds([0.4, 0.6]), at) == 0


def test_prediction_ids_are_well_formed_unique_and_sort_by_time() -> None:
    ids = PredictionIds()
    first, second = ids.block(3, 10**15), ids.block(2, 2 * 10**15)
    assert all(is_id(one, "pred") for one in (*first, *second))
    assert len({*first, *second}) == 5
    assert max(first) < min(second)
    assert not {*first} & {*PredictionIds().block(3, 10**15)}


def test_a_release_is_refused_that_does_not_hang_together() -> None:
    two = (
        Variant(model="m", version=1, bundle="x", share=0.5),
        Variant(model="m", version=2, bundle="y", share=0.5),
    )
    with pytest.raises(ValidationError, match="needs a unit"):
        make_release(variants=two)
    with pytest.raises(ValidationError, match="add up"):
        make_release(variants=two[:1])
    with pytest.raises(ValidationError, match="not a request field"):
        make_release(unit="nobody")
    with pytest.raises(ValidationError, match="named twice"):
        make_release(fields=(RequestField(name="a", type="float"),) * 2)
    endpoint = Endpoint(name="e", model="m", feature_service="s")
    assert [str(ref) for ref in endpoint.references()] == ["model:m", "feature_service:s"]


def test_a_release_document_never_changes(table: RoutingTable) -> None:
    table.write(make_release(bundle="sha256:a"))
    table.write(make_release(bundle="sha256:b"))
    assert table.release("release_1").variants[0].bundle == "sha256:a"
    with pytest.raises(NotFound, match="release_9"):
        table.release("release_9")


def test_a_damaged_document_is_told_and_not_served(table: RoutingTable) -> None:
    with table._writing() as transaction:
        transaction.put(b"release/release_1", b"{")
    with pytest.raises(RoutingDamaged, match="release_1"):
        table.release("release_1")


def test_a_counter_that_a_dead_writer_left_behind_is_mended(table: RoutingTable) -> None:
    table.flip("delays", "release_1")
    table.announce("delays", "release_2")
    table.words[0] = table.words[1] = 0
    table.mend()
    assert list(table.words[:2]) == [1, 1]
    assert table.active() == (1, {"delays": "release_1"})
    assert table.announced() == (1, {"delays": "release_2"})


def _flip_elsewhere(directory: str) -> None:
    other = RoutingTable(Path(directory))
    other.write(make_release("release_2"))
    other.flip("delays", "release_2")
    other.report("elsewhere", generation=1, prepared={})
    other.close()


def test_a_flip_in_another_process_is_seen_in_the_shared_word(tmp_path: Path) -> None:
    table = RoutingTable(tmp_path / "routing")
    process = multiprocessing.get_context("spawn").Process(
        target=_flip_elsewhere, args=(str(tmp_path / "routing"),)
    )
    process.start()
    process.join()
    assert process.exitcode == 0
    assert table.words[0] == 1
    assert table.active()[1] == {"delays": "release_2"}
    assert table.workers() == []  # its process has ended
    table.close()


def test_plans_that_nobody_needs_are_let_go(
    table: RoutingTable, compiler: PlanCompiler, bundles: MemoryBundles
) -> None:
    plans = Plans(table, compiler)
    for number in range(3):
        table.write(make_release(f"release_{number}"))
        table.flip("delays", f"release_{number}")
        assert plans.behind
        assert plans.switch() is False
        plans.catch_up()
        assert not plans.behind
    assert plans.prepared() == {"release_2": "ready"}
    bundles.models["sha256:bad"] = Corrupt("Broken.")
    table.write(make_release("release_bad", bundle="sha256:bad"))
    table.announce("delays", "release_bad")
    assert plans.prepare() is True
    assert plans.prepare() is False
    assert "Broken" in plans.prepared()["release_bad"]
    table.withdraw("delays")
    table.flip("delays", None)
    assert plans.switch() is True
    assert plans.prepared() == {}
    with pytest.raises(NotFound):
        plans.named("delays")


def test_a_switch_never_waits_for_a_build(table: RoutingTable, compiler: PlanCompiler) -> None:
    plans = Plans(table, compiler)
    table.write(make_release())
    table.flip("delays", "release_1")
    plans.catch_up()
    held, free = threading.Event(), threading.Event()

    class Slow:
        def compile(self, release: object) -> object:
            held.set()
            free.wait(30)
            return compiler.compile(release)  # type: ignore[arg-type]

    plans._compiler = Slow()  # type: ignore[assignment]
    table.write(make_release("release_2"))
    table.announce("delays", "release_2")
    builder = threading.Thread(target=plans.prepare)
    builder.start()
    held.wait(5)
    table.flip("other", "release_1")
    assert plans.switch() is True
    assert builder.is_alive()
    free.set()
    builder.join()
    assert json.loads(json.dumps(plans.prepared())) == {"release_1": "ready", "release_2": "ready"}
