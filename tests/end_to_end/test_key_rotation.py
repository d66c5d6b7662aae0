"""The wrapping key is rotated while a platform is in use and its worker is killed."""

import os
import random
import signal
import threading

import pyarrow as pa

from falaj.ingest.ports import JSON
from falaj.kernel.jobs import JobState
from falaj.lake.spool import Spool
from falaj.testing.installations import Installation, alive, eventually
from falaj.trust.rotation import standing
from falaj.wiring.assembly import assemble
from falaj.wiring.keyparts import rewrappables

N_BLOBS = 300


class Load:
    """Blobs are kept and fetched, events pushed and read, until it is told to stop."""

    def __init__(self, premises):
        self.premises = premises
        self.digests = [premises.blobs.keep(b"blob %d" % number) for number in range(N_BLOBS)]
        premises.event_log.ensure("pushed", 2)
        self.pushed = 0
        self.failures = []
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(target=self._repeated, args=(work,))
            for work in (self._blobs, self._events)
        ]
        for thread in self._threads:
            thread.start()

    def _repeated(self, work):
        while not self._stopped.wait(0.005):
            try:
                work()
            except Exception as error:  # noqa: BLE001
                self.failures.append(error)

    def _blobs(self):
        number = len(self.digests)
        self.digests.append(self.premises.blobs.keep(b"blob %d" % number))
        asked = random.randrange(number)
        assert self.premises.blobs.fetch(self.digests[asked]) == b"blob %d" % asked

    def _events(self):
        log = self.premises.event_log
        log.append("pushed", [b"%d" % self.pushed], media=JSON)
        self.pushed += 1
        (found,) = log.read("pushed", 0, self.pushed - 1)
        assert found.payload == b"%d" % (self.pushed - 1)

    def stop(self):
        self._stopped.set()
        for thread in self._threads:
            thread.join()


def test_a_rotation_under_load_ends_with_nothing_on_the_old_version_though_its_worker_is_killed(
    tmp_path,
):
    installation = Installation(tmp_path / "p", variables={"FALAJ_JOB_LEASE_SECONDS": "1"})
    installation.init()
    premises = assemble(installation.settings, process="test")
    load = Load(premises)
    installation.up()
    try:
        # A stream of a name that no lake table can take: its segment stays in the spool.
        spool = Spool(premises.spool_folder, "waiting", premises.keys)
        spool.append(pa.table({"n": [1]}))
        segment = spool.flush()
        segment.rename(segment.with_suffix(".refused"))
        old = premises.keys.versions()
        with installation.near(stepped_up=True) as owner:
            made = owner.keys.rotate("wrapping")
        worker = installation.pid("worker")
        first = set(load.digests[:N_BLOBS])

        def begun():
            items = premises.blobs.items()
            return sum(key_id == made.id for digest, key_id in items if digest in first) > 20

        eventually(begun, every=0.0, what="the job is under way")
        os.kill(worker, signal.SIGKILL)
        still = standing([premises.blobs])
        assert len(still) == 2, "the job had ended before its worker was killed"
        eventually(lambda: not alive(worker))

        def ended():
            with premises.database.reading() as connection:
                job = premises.jobs.get(connection, made.job)
            return job if job.state.ended else None

        job = eventually(ended, what=installation.told())
        load.stop()
        assert (job.state, job.attempts) == (JobState.DONE, 2)
        assert job.result["failed"] == {}
        assert set(standing(rewrappables(premises))) == {made.id}
        assert made.id not in {version.id for version in old}
        assert load.failures == []
        assert [premises.blobs.fetch(digest) for digest in load.digests] == [
            b"blob %d" % number for number in range(len(load.digests))
        ]
        pushed = premises.event_log.read("pushed", 0, 0, max_bytes=1 << 30)
        assert [record.payload for record in pushed] == [b"%d" % n for n in range(load.pushed)]
        with installation.near(stepped_up=True) as owner:
            assert owner.audit.verify().sound
    finally:
        load.stop()
        installation.stop()
        premises.close()
