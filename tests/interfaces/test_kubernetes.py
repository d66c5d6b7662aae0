"""What `falaj render kubernetes` prints. No package with the schemas of Kubernetes is among the
locked ones, so the structure is checked here, against what the API's reference asks for."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from falaj.interfaces.kubernetes import Pods, manifests, rendered
from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings import InferenceSettings
from falaj.serving.scaling import ScalingSettings

RANGE = InferenceSettings(workers="2:6", target_utilisation=0.55, scale_down_seconds=90)
FIXED = InferenceSettings(workers=3)
NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")
QUANTITY = re.compile(r"^[0-9]+(m|Ki|Mi|Gi)?$")
VERSIONS = {
    "Deployment": "apps/v1",
    "Service": "v1",
    "PodDisruptionBudget": "policy/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
    "ScaledObject": "keda.sh/v1alpha1",
}


def by_kind(pods: Pods, settings: InferenceSettings) -> dict[str, dict[str, Any]]:
    return {one["kind"]: one for one in manifests(pods, settings)}


@pytest.mark.parametrize("scaler", ["hpa", "keda"])
@pytest.mark.parametrize("settings", [RANGE, FIXED])
def test_what_is_printed_is_yaml_of_the_same_documents(
    scaler: str, settings: InferenceSettings
) -> None:
    pods = Pods("registry.example/falaj:1", scaler=scaler, gpus=1)
    assert list(yaml.safe_load_all(rendered(pods, settings))) == manifests(pods, settings)


@pytest.mark.parametrize("scaler", ["hpa", "keda"])
def test_every_document_names_what_the_api_knows_and_selects_the_same_pods(scaler: str) -> None:
    made = by_kind(Pods("falaj:1", scaler=scaler), RANGE)
    labels = made["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for kind, document in made.items():
        assert document["apiVersion"] == VERSIONS[kind]
        assert NAME.match(document["metadata"]["name"])
        assert NAME.match(document["metadata"]["namespace"])
    assert made["Deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert made["Service"]["spec"]["selector"] == labels
    assert made["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    (scaled,) = (one for kind, one in made.items() if "Scale" in kind or "Autoscaler" in kind)
    assert scaled["spec"]["scaleTargetRef"]["name"] == made["Deployment"]["metadata"]["name"]
    assert "replicas" not in made["Deployment"]["spec"]  # they belong to the scaler


def test_ports_volumes_and_probes_name_things_that_are_there() -> None:
    made = by_kind(Pods("falaj:1"), RANGE)
    pod = made["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert made["Service"]["spec"]["ports"][0]["targetPort"] in ports
    assert {m["name"] for m in container["volumeMounts"]} <= {v["name"] for v in pod["volumes"]}
    paths = {}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        get = container[probe]["httpGet"]
        assert get["port"] in ports
        assert get["scheme"] == "HTTPS"
        paths[probe] = get["path"]
    assert paths["readinessProbe"] == "/readyz"
    assert paths["livenessProbe"] == "/healthz"
    told = {one["name"]: one["value"] for one in container["env"]}
    assert all(isinstance(value, str) for value in told.values())
    assert int(told["FALAJ_INFERENCE__PORT"]) in ports.values()


def test_a_pod_drains_before_it_ends_and_has_the_time_for_it() -> None:
    pod = by_kind(Pods("falaj:1"), RANGE)["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    script = container["lifecycle"]["preStop"]["exec"]["command"][-1]
    assert re.fullmatch(r"sleep 5; exec falaj --folder \S+ drain", script)
    assert pod["terminationGracePeriodSeconds"] > 5 + RANGE.drain_seconds + 10
    strategy = by_kind(Pods("falaj:1"), RANGE)["Deployment"]["spec"]["strategy"]
    assert strategy["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_pod_has_no_right_that_it_does_not_need() -> None:
    pod = by_kind(Pods("falaj:1"), RANGE)["Deployment"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_resources_are_quantities_and_gpus_are_limits_of_whole_numbers() -> None:
    pods = Pods("falaj:1", cpus=1.5, memory="2Gi", gpus=2)
    template = by_kind(pods, RANGE)["Deployment"]["spec"]["template"]
    resources = template["spec"]["containers"][0]["resources"]
    assert resources["requests"] == {"cpu": "1500m", "memory": "2Gi"}
    assert resources["limits"] == {"memory": "2Gi", "nvidia.com/gpu": 2}
    for quantities in resources.values():
        assert all(QUANTITY.match(str(value)) for value in quantities.values())


def test_the_scalers_aim_at_the_numbers_of_our_own_policy() -> None:
    hpa = by_kind(Pods("falaj:1"), RANGE)["HorizontalPodAutoscaler"]["spec"]
    keda = by_kind(Pods("falaj:1", scaler="keda"), RANGE)["ScaledObject"]["spec"]
    assert (hpa["minReplicas"], hpa["maxReplicas"]) == (2, 6)
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (2, 6)
    busy = hpa["metrics"][0]["pods"]
    assert busy["metric"]["name"] == "falaj_worker_busy_seconds"
    assert busy["target"] == {"type": "AverageValue", "averageValue": "550m"}
    trigger = keda["triggers"][0]
    assert trigger["metadata"]["threshold"] == "0.55"
    assert "rate(falaj_worker_busy_seconds_total" in trigger["metadata"]["query"]
    for behaviour in (
        hpa["behavior"],
        keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"],
    ):
        assert behaviour["scaleDown"]["stabilizationWindowSeconds"] == 90
        assert behaviour["scaleDown"]["policies"][0]["value"] == 1
        assert behaviour["scaleUp"]["policies"][0]["value"] == ScalingSettings().most_step


def test_a_fixed_number_has_no_scaler() -> None:
    made = by_kind(Pods("falaj:1"), FIXED)
    assert set(made) == {"Deployment", "Service", "PodDisruptionBudget"}
    assert made["Deployment"]["spec"]["replicas"] == 3


def test_an_unknown_scaler_is_refused() -> None:
    with pytest.raises(InvalidInput, match="'vpa'"):
        Pods("falaj:1", scaler="vpa")
