"""The features of an inference worker, joined from the parts of its platform."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from falaj.kernel.call import AssetRef
from falaj.kernel.ports import Resource

if TYPE_CHECKING:
    from falaj.features.store import FeatureStore
    from falaj.serving.admission import Admission
    from falaj.serving.planes import Plane
    from falaj.wiring.assembly import Premises

_THREADS = 2
"""For what reads the catalogue, for large reads, and for pushes, of one worker."""
_REMOTE_THREADS = 16
"""For reads that wait for an online store behind a network."""


def feature_planes(made: Premises, admission: Admission) -> list[Plane]:
    """What answers online reads and takes pushed events; its stores open at first use."""
    from falaj.serving.featureplane import FEAST_PATH, READS, FeatureReads, Judge, StreamEvents
    from falaj.serving.featureservices import FeatureServices
    from falaj.serving.pushlog import PushLog
    from falaj.serving.readlog import ReadLog
    from falaj.serving.spools import DirectorySpools
    from falaj.wiring.readingparts import DataPlaneSight

    aside = ThreadPoolExecutor(_THREADS, thread_name_prefix="falaj-features")
    local = made.settings.online.startswith("lmdb:")
    reading = aside
    if not local:
        reading = ThreadPoolExecutor(_REMOTE_THREADS, thread_name_prefix="falaj-reads")
    judge = Judge(made.policy, made.clock)

    def store() -> FeatureStore:
        return made.features

    def resource(ref: AssetRef) -> Resource:
        with made.database.reading() as connection:
            return made.resources.load(connection, ref)

    services = FeatureServices(store, made.database, made.resources, made.definitions.stamp, aside)
    seen = DataPlaneSight(made).features
    spools = DirectorySpools(made.spool_folder, made.keys)
    seconds = made.settings.inference.flush_seconds
    log = ReadLog(spools, flush_seconds=seconds)
    pushes = PushLog(spools, flush_seconds=seconds)
    return [
        *(
            FeatureReads(
                services, admission, judge, log, reading, prefix=prefix, local=local, seen=seen
            )
            for prefix in (READS, FEAST_PATH)
        ),
        StreamEvents(store, resource, admission, judge, pushes, aside),
    ]
