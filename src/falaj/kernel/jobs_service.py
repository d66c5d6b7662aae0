"""The actions on durable jobs."""

from __future__ import annotations

from collections.abc import Callable

from falaj.kernel.actions import Service, action
from falaj.kernel.call import Call
from falaj.kernel.containers import ContainerSpec, DnsName, Image, container_spec
from falaj.kernel.errors import NotFound
from falaj.kernel.fairqueue import TeamState
from falaj.kernel.jobs import Job, Jobs, JobState
from falaj.kernel.problems import public_failure
from falaj.kernel.spot import reclaim

MayHandle = Callable[[Call, Job], bool]
"""True if the caller may handle (cancel) a job: then it may also be seen."""
MOST_LISTED = 1000
Teams = list[TeamState]


class JobsService(Service):
    """Long work: what waits, what runs, what has ended and how."""

    name = "jobs"

    def __init__(self, jobs: Jobs, may_handle: MayHandle) -> None:
        self._jobs = jobs
        self._may_handle = may_handle

    @action(get="/jobs")
    def list(self, *, state: JobState | None = None, limit: int = 50) -> list[Job]:
        """The newest jobs first, all or those in one state: your own, or all that you run."""
        found = self._jobs.listed(self.call.connection, state=state, limit=MOST_LISTED)
        seen = [job for job in found if self._may_handle(self.call, job)]
        return [self._told(job) for job in seen[: max(1, min(limit, MOST_LISTED))]]

    @action(get="/jobs/{job_id}", on="job")
    def get(self, job_id: str) -> Job:
        """One job: its state, progress, result or error."""
        job = self._jobs.get(self.call.connection, job_id)
        if not self._may_handle(self.call, job):
            # Arguments, results and errors tell of data that the caller may not know of.
            raise NotFound(f"There is no job {job_id!r}.", hint="`falaj jobs list` shows yours.")
        return self._told(job)

    def _told(self, job: Job) -> Job:
        """The job as its asker may read it: from afar, a component's failure has no text."""
        if job.error is None or self.call.caller.via == "local":
            return job
        where = f"The operator finds the reason in the worker's log, under {job.id}."
        return job.model_copy(update={"error": dict(public_failure(job.error, log=where))})

    @action(post="/jobs/{job_id}/cancellation", on="job")
    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; a running one stops at its next report."""
        self.call.emit("job.cancel_asked", job=job_id)
        return self._jobs.cancel(self.call.connection, job_id)

    @action(get="/jobs/{job_id}/manifest", on="job")
    def manifest(
        self,
        job_id: str,
        *,
        image: Image,
        namespace: DnsName = "default",
        settings_from: DnsName = "falaj-settings",
    ) -> ContainerSpec:
        """A waiting job as a Kubernetes job of its own: image, environment lock, resources."""
        job = self.get(job_id)
        return container_spec(job, image=image, namespace=namespace, secret=settings_from)

    @action(get="/job-queue")
    def queue(self) -> Teams:
        """Where the teams stand in the queue: what waits, what runs, and their shares."""
        return self._jobs.teams(self.call.connection)

    @action(post="/jobs/{job_id}/reclamation", on="job")
    def reclaim(self, job_id: str) -> Job:
        """Take the spot resources of a running job away; it goes on later, from its checkpoint."""
        self.call.emit("job.reclaimed", job=job_id)
        return reclaim(self._jobs, self.call.connection, job_id)
