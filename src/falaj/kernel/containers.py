"""A job as a Kubernetes job of its own: image, environment lock, resources.

The container runs ``falaj wait JOB``, which leases that job as any worker does. Where the
platform's stores are comes from a secret that the operator made.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
from typing import Annotated, Any

from pydantic import BaseModel, Field

from falaj.kernel.errors import InvalidInput
from falaj.kernel.jobs import Job
from falaj.kernel.resources import GIB, Resources

Image = Annotated[
    str,
    Field(
        pattern=r"^[a-z0-9][a-z0-9._:/-]{0,254}@sha256:[0-9a-f]{64}$",
        description="An image by its digest: registry/name@sha256:…",
    ),
]
DnsName = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")]
WORKER_BYTES = GIB
"""Beside what the fit may use: for the worker that reads the training set and gives it rows."""
GRACE_SECONDS = 600
"""Beside the time of the fit: for reading the training set, packaging and registering."""
_LOCK_PATH = "/etc/falaj/environment"
_LOCK_FILE = "requirements.lock"


class ContainerSpec(BaseModel):
    """What runs one job in a cluster."""

    job: str
    image: str
    lock: str
    """The environment, a package and its version in each line."""
    lock_digest: str
    manifest: str
    """For ``kubectl apply -f -``: a list of a ConfigMap and a Job, as JSON (which is YAML)."""


def container_spec(
    job: Job, *, image: str, namespace: str, secret: str, lock: str | None = None
) -> ContainerSpec:
    """What runs a job that waits.

    Args:
        image: by its digest, with the packages of the lock.
        secret: its keys are environment variables with the settings (``FALAJ_DATABASE`` …).
        lock: the environment; this process's own if it is not given.

    Raises:
        InvalidInput: the job has ended, or says nothing of what it needs.
    """
    if job.state.ended:
        raise InvalidInput(f"The job {job.id} has ended.", hint="Submit it again.")
    asked = job.arguments.get("resources")
    if not asked:
        raise InvalidInput(
            f"The job {job.id} does not say what it needs.",
            hint="Submit it with `resources`.",
        )
    resources = Resources.model_validate(asked)
    lock = environment_lock() if lock is None else lock
    digest = "sha256:" + hashlib.sha256(lock.encode()).hexdigest()
    name = job.id.replace("_", "-")
    labels = {"app.kubernetes.io/name": "falaj", "falaj.io/job": job.id}
    if job.team is not None:
        labels["falaj.io/team"] = job.team.replace(" ", "-")
    about = {"namespace": namespace, "labels": labels}
    items = [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {**about, "name": f"{name}-environment"},
            "immutable": True,
            "data": {_LOCK_FILE: lock},
        },
        {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {**about, "name": name, "annotations": {"falaj.io/lock": digest}},
            "spec": {
                "backoffLimit": 0,  # a lost attempt is taken up by another worker
                "ttlSecondsAfterFinished": 86_400,
                **_deadline(resources),
                "template": {
                    "metadata": {"labels": labels, "annotations": {"falaj.io/lock": digest}},
                    "spec": _pod(job, name, image, secret, resources),
                },
            },
        },
    ]
    manifest = {"apiVersion": "v1", "kind": "List", "items": items}
    return ContainerSpec(
        job=job.id,
        image=image,
        lock=lock,
        lock_digest=digest,
        manifest=json.dumps(manifest, indent=2),
    )


def environment_lock() -> str:
    """The packages of this environment, each with its exact version."""
    found = {
        f"{one.metadata['Name'].lower().replace('_', '-')}=={one.version}"
        for one in importlib.metadata.distributions()
    }
    return "".join(f"{line}\n" for line in sorted(found))


def _deadline(resources: Resources) -> dict[str, int]:
    if resources.seconds is None:
        return {}
    return {"activeDeadlineSeconds": math.ceil(resources.seconds) + GRACE_SECONDS}


def _pod(job: Job, name: str, image: str, secret: str, resources: Resources) -> dict[str, Any]:
    held = {
        "cpu": f"{resources.cpu_thousandths}m",
        "memory": str(resources.all_memory_bytes + WORKER_BYTES),
    }
    if resources.gpus:  # Kubernetes shares no GPU by itself: a share gets a whole one
        held["nvidia.com/gpu"] = str(math.ceil(resources.gpus) * resources.workers)
    container = {
        "name": "run",
        "image": image,
        "command": ["falaj", "wait", job.id],
        "envFrom": [{"secretRef": {"name": secret}}],
        "env": [{"name": "FALAJ_FOLDER", "value": "/work"}],
        "workingDir": "/work",
        "resources": {"requests": held, "limits": held},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "environment", "mountPath": _LOCK_PATH, "readOnly": True},
            {"name": "work", "mountPath": "/work"},
            {"name": "temporary", "mountPath": "/tmp"},  # noqa: S108 - in the container
        ],
    }
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10_001,
            "fsGroup": 10_001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [
            {"name": "environment", "configMap": {"name": f"{name}-environment"}},
            {"name": "work", "emptyDir": {"medium": "Memory"}},
            {"name": "temporary", "emptyDir": {"medium": "Memory"}},
        ],
    }
    if resources.spot:
        pod["tolerations"] = [
            {"key": "falaj.io/spot", "operator": "Exists", "effect": "NoSchedule"}
        ]
    return pod
