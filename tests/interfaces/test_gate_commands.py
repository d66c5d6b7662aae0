"""``falaj gate``: exit codes, files, and who may have rows cut by personal columns."""

import contextlib
import io
import json
from datetime import timedelta
from xml.etree import ElementTree

import pytest

import falaj
from falaj.declare import (
    Aggregate,
    CalibrationRule,
    CardRule,
    ChampionRule,
    ExplainabilityRule,
    FairnessRule,
    FeatureService,
    FeatureView,
    InputsRule,
    LatencyRule,
    LeakageRule,
    MemoryRule,
    MetricRule,
    ModelPolicy,
    RobustnessRule,
    SliceRule,
)
from falaj.features.purposes import PurposeRefused
from falaj.interfaces.cli import app
from falaj.kernel.errors import Forbidden
from falaj.models.model import Outcome
from falaj.testing.world import World, training_spec
from falaj.training.model import TrainingRequest, TrainingSetSpec


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with World.made(tmp_path_factory.mktemp("world")) as made:
        yield made
        made.close()


def typed(world, *words, options=()):
    """Exit code, output and errors of a command."""
    told, wrong = io.StringIO(), io.StringIO()
    with (
        world.opened(),
        contextlib.redirect_stdout(told),
        contextlib.redirect_stderr(wrong),
        pytest.raises(SystemExit) as ended,
    ):
        app(["--folder", str(world.folder), *options, *words], prog_name="falaj")
        raise SystemExit(0)
    return ended.value.code or 0, told.getvalue(), wrong.getvalue()


def declared(world, **rules):
    """Apply the policy of the model with other rules."""
    given = {"champion": None, "calibration": None, "latency": None, "leakage": None}
    policy = ModelPolicy(
        name="late", feature_service="delays", label="late", **{**given, **rules}
    )  # fmt: skip
    with world.call() as call:
        world.premises.definitions.apply(call, [policy.document()])


def test_a_version_that_passes_exits_with_0_and_writes_both_files(world, tmp_path):
    declared(world, floors=(MetricRule(limit=0.6),))
    junit, sarif = tmp_path / "gates.xml", tmp_path / "gates.sarif"
    files = ("--junit", str(junit), "--sarif", str(sarif))
    code, told, wrong = typed(world, "gate", "run", "late", "1", *files)
    assert code == 0, wrong
    assert "late version 1 passed its gates" in told
    (suite,) = ElementTree.parse(junit).getroot()
    assert suite.get("failures") == "0"
    assert json.loads(sarif.read_text())["runs"][0]["results"] == []


def test_a_version_that_fails_exits_with_1_and_is_told_again_by_report(world, tmp_path):
    declared(world, floors=(MetricRule(limit=0.999),))
    code, told, _ = typed(world, "gate", "run", "late/1")
    assert code == 1
    assert "did not pass" in told
    sarif = tmp_path / "gates.sarif"
    code, told, _ = typed(world, "gate", "report", "late", "--sarif", str(sarif),
                          options=("--json",))  # fmt: skip
    assert code == 1
    assert json.loads(told)["passed"] is False
    (result,) = json.loads(sarif.read_text())["runs"][0]["results"]
    assert result["ruleId"] == "falaj.gate.metric"


def test_what_cannot_be_judged_exits_with_2_and_says_so_in_the_files(world, tmp_path):
    junit = tmp_path / "gates.xml"
    code, _, wrong = typed(world, "gate", "run", "late", "99", "--junit", str(junit))
    assert code == 2
    assert "There is no version 99" in wrong
    (suite,) = ElementTree.parse(junit).getroot()
    assert suite.get("errors") == "1"
    assert typed(world, "gate", "run", "nobody")[0] == 2
    assert typed(world, "gate", "run", "late/1", "2")[0] == 2
    assert typed(world, "gate", "run", "late", "1", "--junit", str(tmp_path / "no" / "x"))[0] == 2


def test_a_policy_that_asks_for_everything_gets_a_number_for_everything(world):
    declared(
        world,
        floors=tuple(MetricRule(metric=one, limit=0.0 if one == "auc" else 1.0)
                     for one in ("auc", "log_loss", "brier", "calibration_error")),
        champion=ChampionRule(require="not_inferior"),
        slices=(SliceRule(columns=("carrier",), limit=0.1, least_rows=20),),
        calibration=CalibrationRule(limit=0.5),
        fairness=(FairnessRule(column="carrier", least_rows=10),),
        robustness=RobustnessRule(auc_loss=0.5, flips=0.9),
        latency=LatencyRule(),
        memory=MemoryRule(largest_megabytes=2_000),
        leakage=LeakageRule(model_auc=1.0, feature_auc=1.0, first_event_auc=1.0),
        explainability=ExplainabilityRule(dominant=1.0),
        card=CardRule(needs=("metrics", "slices", "inputs", "origin", "data", "owner")),
        inputs=InputsRule(outside=0.5, missing=0.5),
    )  # fmt: skip
    code, told, wrong = typed(world, "gate", "run", "late", "1", options=("--json",))
    assert code == 0, told + wrong
    report = json.loads(told)
    found = {one["gate"]: one for one in report["results"]}
    assert set(found) == {
        "bundle", "supply_chain", "contract", "inputs", "leakage", "metric:auc", "metric:log_loss",
        "metric:brier", "metric:calibration_error", "champion", "slices:carrier", "calibration",
        "fairness:carrier", "robustness", "latency", "memory", "size", "explainability", "card",
    }  # fmt: skip
    assert all(one["evidence"] for gate, one in found.items() if gate != "champion")
    assert found["inputs"]["evidence"]["declared"] is True
    assert found["memory"]["evidence"]["peak_megabytes"] > 10


def test_a_card_has_two_forms_and_a_page_is_whole_in_itself(world, tmp_path):
    code, told, _ = typed(world, "models", "card", "late", "1")
    assert code == 0
    assert told.startswith("# late, version 1")
    file = tmp_path / "card.html"
    code, told, wrong = typed(world, "models", "card", "late", "1", "--form", "html", "--to",
                              str(file))  # fmt: skip
    assert code == 0, wrong
    page = file.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "src=" not in page
    assert "href=" not in page


@pytest.fixture
def personal(world):
    """The carrier is personal, and rows are cut by it."""
    rules = {"fairness": (FairnessRule(column="carrier", groups=("AA", "UA"), least_rows=10),),
             "slices": (SliceRule(columns=("carrier",), limit=0.5, least_rows=20),)}  # fmt: skip
    declared(world, **rules)
    with world.opened() as platform:
        platform.tables.classify("flights", columns={"carrier": "personal"})
    yield
    with world.opened() as platform:
        platform.tables.classify("flights", columns={"carrier": "public"})


@pytest.mark.usefixtures("personal")
def test_rows_are_cut_by_a_personal_column_only_for_who_may_see_it(world):
    with world.opened(stepped_up=False) as platform, pytest.raises(Forbidden, match="carrier"):
        platform.models.gates("late", 1)
    with world.opened():
        for_a_purpose = falaj.open(world.folder, purpose="fairness_audit")
        for_a_purpose.models.gates("late", 1)
        world.work()
        found = {one.gate: one for one in for_a_purpose.models.gate_report("late", 1).results}
    assert found["slices:carrier"].outcome is not Outcome.SKIPPED
    told = found["slices:carrier"].model_dump_json()
    assert "slice 1 of" in told
    assert '"UA"' not in told
    groups = found["fairness:carrier"].evidence["groups"]["demographic_parity"]
    assert {one["group"] for one in groups} <= {"AA", "UA", "(others)"}


@pytest.mark.usefixtures("personal")
def test_rows_for_one_purpose_are_not_cut_by_a_personal_column_for_another(world):
    purpose = "fairness_audit"
    view = FeatureView(
        name="audited", entity="carrier", source="flights", event_time="at", purposes=(purpose,),
        classification="personal",
        aggregates=(Aggregate("n_2d", "count", window=timedelta(days=2)),),
    )  # fmt: skip
    service = FeatureService(
        name="audited_delays", features=("audited",), classification="personal",
        request_fields={"signal": "float64", "carrier": "string"},
    )  # fmt: skip
    policy = ModelPolicy(
        name="audited", feature_service="audited_delays", label="late", champion=None,
        slices=(SliceRule(columns=("carrier",), limit=0.1, least_rows=20),),
    )  # fmt: skip
    with world.call() as call:
        world.premises.definitions.apply(call, [one.document() for one in (view, service, policy)])
    spec = TrainingSetSpec.model_validate({**training_spec(), "feature_service": "audited_delays"})
    with world.opened():
        audit = falaj.open(world.folder, purpose=purpose)
        params = {"n_trees": 5, "num_leaves": 4, "num_threads": 1}
        audit.training.train(TrainingRequest(model="audited", spec=spec, params=params))
        world.work()
        with pytest.raises(PurposeRefused, match="fairness_audit"):
            falaj.open(world.folder, purpose="marketing").models.gates("audited", 1)
        assert audit.models.gates("audited", 1).state == "waiting"
        world.work()
