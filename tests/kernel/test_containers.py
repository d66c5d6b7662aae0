"""The manifest of a job: what a cluster is told, by structure. No cluster is asked here."""

import json
from datetime import UTC, datetime

import pytest
from pydantic import TypeAdapter, ValidationError

from falaj.kernel.containers import GRACE_SECONDS, Image, container_spec, environment_lock
from falaj.kernel.errors import InvalidInput
from falaj.kernel.jobs import Job, JobState
from falaj.kernel.resources import GIB

IMAGE = "registry.example/falaj@sha256:" + "0a" * 32


def job(state=JobState.WAITING, **resources):
    return Job(
        id="job_01",
        kind="training.train",
        arguments={"resources": resources} if resources else {},
        state=state,
        submitted_by="user:amina",
        submitted_at=datetime(2026, 11, 1, tzinfo=UTC),
        attempts=0,
        progress=0.0,
        message="",
        team="fraud",
    )


def parts(found):
    listed = json.loads(found.manifest)
    assert (listed["apiVersion"], listed["kind"]) == ("v1", "List")
    config, run = listed["items"]
    return config, run, run["spec"]["template"]["spec"]


def spec(**resources):
    return container_spec(job(**resources), image=IMAGE, namespace="ml", secret="falaj-settings")


def test_the_manifest_asks_for_what_the_job_asks_for():
    found = spec(cpus=1.5, memory_bytes=2 * GIB, gpus=0.5, seconds=3600, workers=2)
    _, run, pod = parts(found)
    (container,) = pod["containers"]
    held = {"cpu": "3000m", "memory": str(5 * GIB), "nvidia.com/gpu": "2"}
    assert container["resources"] == {"requests": held, "limits": held}
    assert run["spec"]["activeDeadlineSeconds"] == 3600 + GRACE_SECONDS
    assert (container["image"], container["command"]) == (IMAGE, ["falaj", "wait", "job_01"])


def test_the_environment_lock_goes_along_under_its_digest():
    found = spec(cpus=1)
    config, run, pod = parts(found)
    assert config["data"]["requirements.lock"] == found.lock == environment_lock()
    assert "lightgbm==" in found.lock
    assert run["metadata"]["annotations"]["falaj.io/lock"] == found.lock_digest
    (volume,) = (one for one in pod["volumes"] if one["name"] == "environment")
    assert volume["configMap"]["name"] == config["metadata"]["name"]


def test_the_container_may_do_nothing_but_its_work():
    _, _, pod = parts(spec(cpus=1))
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "nvidia.com/gpu" not in container["resources"]["limits"]
    assert all("emptyDir" not in one or one["emptyDir"] == {"medium": "Memory"}
               for one in pod["volumes"])  # fmt: skip


def test_names_and_labels_are_what_kubernetes_takes():
    config, run, _ = parts(spec(cpus=1))
    for one in (config, run):
        name = one["metadata"]["name"]
        assert name.replace("-", "").isalnum()
        assert name == name.lower()
        assert one["metadata"]["namespace"] == "ml"
        assert one["metadata"]["labels"]["falaj.io/team"] == "fraud"
    assert run["spec"]["backoffLimit"] == 0


def test_only_a_spot_job_tolerates_spot_machines():
    assert parts(spec(cpus=1, spot=True))[2]["tolerations"][0]["key"] == "falaj.io/spot"
    assert "tolerations" not in parts(spec(cpus=1))[2]


def test_a_job_that_has_ended_or_says_nothing_is_refused():
    for wrong, told in ((job(JobState.DONE, cpus=1), "has ended"), (job(), "what it needs")):
        with pytest.raises(InvalidInput, match=told):
            container_spec(wrong, image=IMAGE, namespace="ml", secret="s")


@pytest.mark.parametrize(
    "image", ["falaj:latest", "falaj", "x@sha256:00", "a b@sha256:" + "0" * 64]
)
def test_an_image_is_named_by_its_digest(image):
    with pytest.raises(ValidationError):
        TypeAdapter(Image).validate_python(image)
