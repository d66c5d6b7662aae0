"""The actions on durable jobs."""

from __future__ import annotations

from falaj.kernel.actions import Service, action
from falaj.kernel.jobs import Job, Jobs, JobState


class JobsService(Service):
    """Long work: what waits, what runs, what has ended and how."""

    name = "jobs"

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    @action(get="/jobs")
    def list(self, *, state: JobState | None = None, limit: int = 50) -> list[Job]:
        """The newest jobs first, all or those in one state."""
        return self._jobs.listed(self.call.connection, state=state, limit=max(1, min(limit, 1000)))

    @action(get="/jobs/{job_id}", on="job")
    def get(self, job_id: str) -> Job:
        """One job: its state, progress, result or error."""
        return self._jobs.get(self.call.connection, job_id)

    @action(post="/jobs/{job_id}/cancellation", on="job")
    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; a running one stops at its next report."""
        self.call.emit("job.cancel_asked", job=job_id)
        return self._jobs.cancel(self.call.connection, job_id)
