"""Finds the attributes of whatever a call is about, wherever it is kept."""

from __future__ import annotations

from sqlalchemy.engine import Connection

from falaj.catalog.assets import Catalog
from falaj.kernel.call import AssetRef
from falaj.kernel.errors import NotFound
from falaj.kernel.jobs import Jobs
from falaj.kernel.ports import Resource


class AllResources:
    """Assets from the catalogue, jobs from their own table; fulfils ``kernel.ports.Resources``."""

    def __init__(self, catalog: Catalog, jobs: Jobs) -> None:
        self._catalog = catalog
        self._jobs = jobs

    def load(self, connection: Connection, ref: AssetRef) -> Resource:
        """The attributes of an asset or a job; a job is its submitter's."""
        if ref.kind != "job":
            return self._catalog.load(connection, ref)
        try:
            job = self._jobs.get(connection, ref.key)
        except NotFound:
            return Resource(ref, exists=False)
        return Resource(ref, {"owner": job.submitted_by})
