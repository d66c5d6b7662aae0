"""``falaj render kubernetes``: the inference workers as a Deployment that scales.

Rendered from the platform's own settings, so that the numbers which the policy of
``falaj.serving.scaling`` aims at on one machine are those that Kubernetes aims at. A pod
runs ``falaj up inference`` with one worker; Kubernetes places pods and counts them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from falaj.interfaces.supervisor import GRACE_SECONDS
from falaj.kernel.errors import InvalidInput
from falaj.kernel.settings import InferenceSettings

SETTLE_SECONDS = 5
"""So long may the cluster go on sending new connections to a pod that is to end."""
_PORT = 8444
_FOLDER = "/srv/falaj"
_USER = 10_001
_BUSY = "falaj_worker_busy_seconds_total"
_SHED = "falaj_worker_shed_total"


@dataclass(frozen=True)
class Pods:
    """What the pods are like."""

    image: str
    name: str = "falaj-inference"
    namespace: str = "falaj"
    scaler: str = "hpa"
    """``hpa`` (custom metrics through prometheus-adapter) or ``keda``."""
    prometheus: str = "http://prometheus.monitoring:9090"
    """Where KEDA asks."""
    cpus: float = 1.0
    memory: str = "1Gi"
    gpus: int = 0

    def __post_init__(self) -> None:
        if self.scaler not in {"hpa", "keda"}:
            raise InvalidInput(
                f"There is no scaler {self.scaler!r}.", hint="Choose `hpa` or `keda`."
            )

    @property
    def labels(self) -> dict[str, str]:
        """What selects the pods."""
        return {"app.kubernetes.io/name": "falaj", "app.kubernetes.io/component": self.name}


def rendered(pods: Pods, settings: InferenceSettings) -> str:
    """The manifests as YAML, one document each."""
    made = manifests(pods, settings)
    return "".join("---\n" + "".join(_lines(document, 0)) for document in made)


def manifests(pods: Pods, settings: InferenceSettings) -> list[dict[str, Any]]:
    """Deployment, Service, PodDisruptionBudget, and the scaler where there is a choice."""
    made = [_deployment(pods, settings), _service(pods), _budget(pods, settings)]
    if settings.least_workers < settings.most_workers:
        made.append(_keda(pods, settings) if pods.scaler == "keda" else _hpa(pods, settings))
    return made


def _head(pods: Pods, version: str, kind: str) -> dict[str, Any]:
    return {
        "apiVersion": version,
        "kind": kind,
        "metadata": {"name": pods.name, "namespace": pods.namespace, "labels": pods.labels},
    }


def _deployment(pods: Pods, settings: InferenceSettings) -> dict[str, Any]:
    ends = SETTLE_SECONDS + math.ceil(settings.drain_seconds + 2 * GRACE_SECONDS)
    pod = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": ends,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": _USER,
            "runAsGroup": _USER,
            "fsGroup": _USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(pods, settings)],
        "volumes": [
            {"name": "home", "emptyDir": {}},
            {"name": "settings", "configMap": {"name": f"{pods.name}-settings"}},
            {"name": "keys", "secret": {"secretName": f"{pods.name}-keys", "defaultMode": 0o400}},
        ],
    }
    spec: dict[str, Any] = {
        "revisionHistoryLimit": 3,
        "selector": {"matchLabels": pods.labels},
        "strategy": {
            "type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0},
        },
        "template": {"metadata": {"labels": pods.labels}, "spec": pod},
    }
    if settings.least_workers == settings.most_workers:
        spec["replicas"] = settings.least_workers  # else it belongs to the scaler
    return {**_head(pods, "apps/v1", "Deployment"), "spec": spec}


def _container(pods: Pods, settings: InferenceSettings) -> dict[str, Any]:
    def probe(path: str, **more: int) -> dict[str, Any]:
        return {"httpGet": {"path": path, "port": "https", "scheme": "HTTPS"}, **more}

    resources: dict[str, dict[str, Any]] = {
        "requests": {"cpu": f"{round(pods.cpus * 1000)}m", "memory": pods.memory},
        "limits": {"memory": pods.memory},  # no limit of the CPU: it would stop a turn midway
    }
    if pods.gpus:
        resources["limits"]["nvidia.com/gpu"] = pods.gpus
    command = ["falaj", "--folder", _FOLDER]
    leave = f"sleep {SETTLE_SECONDS}; exec {' '.join(command)} drain"
    own = {
        "FALAJ_HOME": f"{_FOLDER}/.falaj",
        "FALAJ_INFERENCE__HOST": "0.0.0.0",  # noqa: S104 - of a pod, behind its service
        "FALAJ_INFERENCE__PORT": str(_PORT),
        "FALAJ_INFERENCE__DRAIN_SECONDS": f"{settings.drain_seconds:g}",
        "FALAJ_INFERENCE__IDLE_SECONDS": f"{settings.idle_seconds:g}",
    }
    return {
        "name": "inference",
        "image": pods.image,
        "command": [*command, "up", "inference", "--workers", "1"],
        "env": [{"name": name, "value": value} for name, value in own.items()],
        "ports": [{"name": "https", "containerPort": _PORT, "protocol": "TCP"}],
        "startupProbe": probe("/healthz", periodSeconds=1, failureThreshold=60),
        "livenessProbe": probe("/healthz", periodSeconds=10, timeoutSeconds=5, failureThreshold=3),
        "readinessProbe": probe("/readyz", periodSeconds=2, timeoutSeconds=2, failureThreshold=2),
        "lifecycle": {"preStop": {"exec": {"command": ["/bin/sh", "-c", leave]}}},
        "resources": resources,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "home", "mountPath": f"{_FOLDER}/.falaj"},
            {
                "name": "settings",
                "mountPath": f"{_FOLDER}/falaj.toml",
                "subPath": "falaj.toml",
                "readOnly": True,
            },
            {"name": "keys", "mountPath": f"{_FOLDER}/.falaj/keys", "readOnly": True},
        ],
    }


def _service(pods: Pods) -> dict[str, Any]:
    return {
        **_head(pods, "v1", "Service"),
        "spec": {
            "type": "ClusterIP",
            "selector": pods.labels,
            "ports": [{"name": "https", "port": _PORT, "targetPort": "https", "protocol": "TCP"}],
        },
    }


def _budget(pods: Pods, settings: InferenceSettings) -> dict[str, Any]:
    limit = {"maxUnavailable": 1} if settings.least_workers > 1 else {"minAvailable": 1}
    return {
        **_head(pods, "policy/v1", "PodDisruptionBudget"),
        "spec": {**limit, "selector": {"matchLabels": pods.labels}},
    }


def _behaviour(settings: InferenceSettings) -> dict[str, Any]:
    """The windows and steps of ``ScalingSettings``, in the words of an autoscaler."""
    from falaj.serving.scaling import ScalingSettings

    policy, seconds = ScalingSettings(), round(settings.scale_down_seconds)
    return {
        "scaleUp": {
            "stabilizationWindowSeconds": round(policy.up_seconds),
            "policies": [{"type": "Pods", "value": policy.most_step, "periodSeconds": 15}],
        },
        "scaleDown": {
            "stabilizationWindowSeconds": min(3600, seconds),
            "policies": [{"type": "Pods", "value": 1, "periodSeconds": min(1800, seconds)}],
        },
    }


def _hpa(pods: Pods, settings: InferenceSettings) -> dict[str, Any]:
    def metric(name: str, average: str) -> dict[str, Any]:
        target = {"type": "AverageValue", "averageValue": average}
        return {"type": "Pods", "pods": {"metric": {"name": name}, "target": target}}

    return {
        **_head(pods, "autoscaling/v2", "HorizontalPodAutoscaler"),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": pods.name},
            "minReplicas": settings.least_workers,
            "maxReplicas": settings.most_workers,
            # prometheus-adapter gives them as rates, without `_total`: busy seconds in each
            # second are the utilisation; half a shed request in a second asks for one more pod.
            "metrics": [
                metric(_BUSY.removesuffix("_total"), f"{settings.target_utilisation * 1000:.0f}m"),
                metric(_SHED.removesuffix("_total"), "500m"),
            ],
            "behavior": _behaviour(settings),
        },
    }


def _keda(pods: Pods, settings: InferenceSettings) -> dict[str, Any]:
    chosen = f'namespace="{pods.namespace}",pod=~"{pods.name}-.*"'

    def trigger(name: str, query: str, threshold: float) -> dict[str, Any]:
        return {
            "type": "prometheus",
            "name": name,
            "metricType": "AverageValue",
            "metadata": {
                "serverAddress": pods.prometheus,
                "query": query,
                "threshold": f"{threshold:g}",
            },
        }

    return {
        **_head(pods, "keda.sh/v1alpha1", "ScaledObject"),
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": pods.name},
            "minReplicaCount": settings.least_workers,
            "maxReplicaCount": settings.most_workers,
            "pollingInterval": 5,
            "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behaviour(settings)}},
            "triggers": [
                trigger("busy", f"sum(rate({_BUSY}{{{chosen}}}[1m]))", settings.target_utilisation),
                trigger("shed", f"sum(rate({_SHED}{{{chosen}}}[1m]))", 0.5),
            ],
        },
    }


def _lines(value: Any, depth: int) -> Iterator[str]:
    """A document in block style; texts are quoted as JSON, which YAML reads alike."""
    indent = "  " * depth
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if _is_block(inner):
                yield f"{indent}{_key(name)}:\n"
                yield from _lines(inner, depth + 1)
            else:
                yield f"{indent}{_key(name)}: {json.dumps(inner)}\n"
    else:
        for inner in value:
            if _is_block(inner):
                first, *rest = _lines(inner, depth + 1)
                yield f"{indent}- {first.lstrip()}"
                yield from rest
            else:
                yield f"{indent}- {json.dumps(inner)}\n"


def _is_block(value: Any) -> bool:
    listed = isinstance(value, Sequence) and not isinstance(value, str)
    return bool(value) and (listed or isinstance(value, Mapping))


def _key(name: str) -> str:
    return name if name.replace("_", "").isalnum() else json.dumps(name)
