"""Builds a platform from its settings, in the order of the flow.

``Premises`` makes each part when it is first asked for, so that a process which only
serves models never opens the lake, and a command that lists jobs opens next to nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from falaj.catalog.assets import Catalog
from falaj.catalog.definitions import Definition, Definitions
from falaj.kernel.call import AssetRef, Call, Caller
from falaj.kernel.calls import Calls
from falaj.kernel.clock import Clock, SystemClock
from falaj.kernel.database import Database
from falaj.kernel.door import Backend, Services
from falaj.kernel.jobs import Handler, Job, Jobs
from falaj.kernel.outbox import Outbox
from falaj.kernel.ports import Resource
from falaj.kernel.settings import Settings, private_folder
from falaj.kernel.telemetry import Telemetry
from falaj.operations.alerts import Alerts
from falaj.operations.changes import Changes
from falaj.operations.incidents import Incidents
from falaj.trust.audit import SqlAuditLog
from falaj.trust.audit_checkpoints import Checkpoints
from falaj.trust.audit_verification import Verifier
from falaj.trust.authentication import Authentication
from falaj.trust.bindings import NOTHING, Presented
from falaj.trust.epochs import Epochs
from falaj.trust.factors import Factors
from falaj.trust.key_uses import CountedKeys, KeyUses
from falaj.trust.policy_store import LivePolicy
from falaj.trust.proofs import Proofs
from falaj.trust.tokens import Tokens
from falaj.wiring import stores
from falaj.wiring.keyservices import key_service
from falaj.wiring.parts import part
from falaj.wiring.resources import AllResources
from falaj.wiring.sharing import Shared

if TYPE_CHECKING:
    from falaj.features.foreign import ForeignTables
    from falaj.features.index.files import RunFiles
    from falaj.features.offline import Offline
    from falaj.features.ports import OnlineStore
    from falaj.features.store import FeatureStore
    from falaj.ingest.files import Files
    from falaj.ingest.pipelines import Loading
    from falaj.ingest.ports import EventLog
    from falaj.kernel.lentcompute import LentCompute
    from falaj.lake.blobs import SealedBlobs
    from falaj.lake.sealedcolumns import SubjectLake
    from falaj.lake.streams import SealedStreams
    from falaj.models.bundles import Bundles
    from falaj.models.registry import Registry
    from falaj.monitoring.monitors import Monitors
    from falaj.training.tracking.runs import Runs
    from falaj.training.training_sets import TrainingSets
    from falaj.trust.ports import KeyService, Witness
    from falaj.trust.subjectciphers import SubjectCiphers
    from falaj.trust.subjectkeys import StoredKeys
    from falaj.wiring.certificateparts import CertificateParts
    from falaj.wiring.pipelineparts import PipelineParts
    from falaj.wiring.servingparts import ServingParts


_ONLINE: Shared[OnlineStore] = Shared()


class TokenVerifier:
    """Turns an access token into a caller, at the platform's own time."""

    def __init__(self, tokens: Tokens, clock: Clock) -> None:
        self._tokens = tokens
        self._clock = clock

    def verify(self, token: str, presented: Presented = NOTHING) -> Caller:
        """The caller; raises InvalidToken, or UnprovenKey for a bound token without its key."""
        return self._tokens.verify(token, self._clock.now(), presented)

    def at_hand(self, token: str) -> Caller | None:
        """The caller of a token that was verified before, if nothing has to be read."""
        return self._tokens.at_hand(token, self._clock.now())

    def still_good(self, token: str) -> None:
        """Return unless a token that was verified is over or revoked; raises InvalidToken."""
        self._tokens.still_good(token, self._clock.now())


class Premises:
    """All parts of one platform in one process.

    Args:
        settings: which adapters, and where things lie.
        process: this process's name, in metrics and as a worker.
        clock: tells the time.
    """

    def __init__(
        self, settings: Settings, *, process: str = "embedded", clock: Clock | None = None
    ) -> None:
        self.settings = settings
        self.process = process
        self.clock = clock or SystemClock()
        self.making = threading.RLock()
        self.closing: list[Callable[[], None]] = []

    # ---- the kernel and trust

    @part
    def telemetry(self) -> Telemetry:
        """Metrics of this process's door."""
        return Telemetry(process=self.process)

    @part
    def keys(self) -> KeyService:
        """The key service."""
        self.closing.append(self.key_uses.leave)
        return CountedKeys(key_service(self.settings, self.clock), self.key_uses)

    @part
    def key_uses(self) -> KeyUses:
        """Counts which keys are used for what."""
        folder = self.settings.home / "key-uses"
        return KeyUses(folder, process=self.process, clock=self.clock)

    @part
    def database(self) -> Database:
        """The metadata database."""
        opened = Database(self.settings.database_url)
        self.closing.append(opened.close)
        return opened

    @part
    def audit(self) -> SqlAuditLog:
        """The audit log."""
        return SqlAuditLog()

    @part
    def checkpoints(self) -> Checkpoints:
        """Makes and reads signed checkpoints of the audit log."""
        return Checkpoints(self.keys)

    @part
    def witness(self) -> Witness:
        """Remembers the audit log's checkpoints outside of the database."""
        from falaj.wiring.auditparts import witness

        return witness(self)

    @part
    def audit_verifier(self) -> Verifier:
        """Checks the audit log against its chain, its checkpoints and its witness."""
        return Verifier(self.checkpoints, witness=self.witness)

    @part
    def tokens(self) -> Tokens:
        """Issues and verifies access tokens."""
        proofs = Proofs(lambda: self.keys.derive("dpop-nonces"))
        return Tokens(self.keys, Epochs(self.database), issuer="falaj", proofs=proofs)

    @part
    def verifier(self) -> TokenVerifier:
        """Verifies access tokens at the platform's time."""
        return TokenVerifier(self.tokens, self.clock)

    @part
    def authentication(self) -> Authentication:
        """The credential exchanges."""
        return Authentication(
            self.database,
            self.audit,
            clock=self.clock,
            tokens=self.tokens,
            factors=Factors(self.keys),
        )

    @part
    def certificates(self) -> CertificateParts:
        """The built-in authority, and the certificates of servers and programs."""
        from falaj.wiring.certificateparts import CertificateParts

        return CertificateParts(self)

    @part
    def policy(self) -> LivePolicy:
        """The policy over all actions of the platform, as it stands now."""
        from falaj.wiring.policyparts import live_policy

        return live_policy(self)

    @part
    def jobs(self) -> Jobs:
        """The durable jobs."""
        from falaj.wiring.computeparts import fair_queue

        lease = timedelta(seconds=self.settings.job_lease_seconds)
        return Jobs(self.database, self.clock, lease=lease, queue=fair_queue(self))

    @part
    def compute(self) -> LentCompute:
        """What runs tasks of jobs, lent to one job after the other."""
        from falaj.kernel.lentcompute import LentCompute

        idle = self.settings.queue.idle_seconds
        lender = LentCompute(lambda: stores.compute(self.settings), idle)
        self.closing.append(lender.close)
        return lender

    @part
    def calls(self) -> Calls:
        """Calls that the platform makes itself."""
        return Calls(self.database, self.audit, Outbox(), self.clock)

    # ---- catalogue and operations

    @part
    def catalog(self) -> Catalog:
        """Assets and lineage."""
        return Catalog()

    @part
    def resources(self) -> AllResources:
        """The attributes of whatever a call is about."""
        return AllResources(self.catalog, self.jobs)

    @part
    def definitions(self) -> Definitions:
        """What is declared."""
        from falaj.features.appliers import appliers as feature_appliers
        from falaj.operations.policies import policy_applied
        from falaj.operations.secret_uses import ReceiverReview
        from falaj.wiring.kinds import definition_kinds, definition_reviews
        from falaj.wiring.policyparts import review
        from falaj.wiring.readingparts import ingest_appliers
        from falaj.wiring.residencyparts import residency
        from falaj.wiring.rolloutparts import rollout_appliers

        def found(connection: Any, kind: str, name: str, version: int | None = None) -> Definition:
            return self.definitions.definition(connection, kind, name, version)

        def endpoint_applied(call: Call, definition: Any) -> None:
            self.serving.releases.applied(call, definition)

        return Definitions(
            self.catalog,
            definition_kinds(),
            {
                **feature_appliers(found, self.catalog),
                **rollout_appliers(self),
                **ingest_appliers(self),
                "endpoint": endpoint_applied,
                "policy": policy_applied,
            },
            definition_reviews(
                found,
                lambda: self.foreign_tables,
                lambda: self.lake,
                review(self),
                residency(self),
                ReceiverReview(self.settings.receivers),
            ),
        )

    @part
    def changes(self) -> Changes:
        """Changes, and what approving each kind does."""
        from falaj.operations.policies import CHANGE_KIND as POLICY
        from falaj.wiring.policyparts import proposals
        from falaj.wiring.registryparts import model_changes
        from falaj.wiring.rolloutparts import rollout_changes

        def policies_approved(call: Call, change: Any) -> None:
            proposals(self).carry_out(call, change)

        kinds = {**model_changes(self), **rollout_changes(self), POLICY: policies_approved}
        return Changes(self.catalog, kinds, self.definitions)

    @part
    def incidents(self) -> Incidents:
        """Incidents."""
        return Incidents(self.catalog)

    @part
    def alerts(self) -> Alerts:
        """Alerts."""
        return Alerts(self.catalog, self.incidents)

    # ---- lake and features

    @part
    def subject_keys(self) -> StoredKeys:
        """The keys of data subjects."""
        from falaj.wiring.privacyparts import subject_keys

        opened = subject_keys(self)
        self.closing.append(opened.close)
        return opened

    @part
    def lake(self) -> SubjectLake:
        """The offline tables, which seal what is personal."""
        from falaj.lake.sealedcolumns import SubjectLake

        opened = SubjectLake(stores.lake(self.settings), self.subject_keys)
        self.closing.append(opened.close)
        return opened

    @part
    def blobs(self) -> SealedBlobs:
        """Encrypted, content-addressed blobs."""
        from falaj.lake.blobs import SealedBlobs

        return SealedBlobs(stores.blob_store(self.settings), self.keys)

    @part
    def streams(self) -> SealedStreams:
        """Encrypted bytes of any size."""
        from falaj.lake.streams import SealedStreams

        return SealedStreams(stores.blob_store(self.settings), self.keys)

    @part
    def loading(self) -> Loading:
        """Loads sources."""
        from falaj.ingest.pipelines import Loading

        return Loading(
            lake=self.lake,
            files=self.data_files,
            definitions=self.definitions,
            catalog=self.catalog,
            calls=self.calls,
            clock=self.clock,
            alerts=self.alerts,
        )

    @property
    def data_files(self) -> Files:
        """The files that may be read as data."""
        from falaj.ingest.files import Files

        return Files(self.settings.data_folders, closed=self._own_files)

    @part
    def foreign_tables(self) -> ForeignTables:
        """Opens tables that others write."""
        return stores.foreign_tables(self.data_files)

    @property
    def _own_files(self) -> list[Path]:
        """What no source may read, though it may lie in the project's folder."""
        http = self.settings.http
        own = (self.settings.home, http.certificate_file, http.private_key_file)
        return [path for path in own if path is not None]

    @property
    def spool_folder(self) -> Path:
        """Where rows wait for the lake on this machine."""
        return private_folder(self.settings.home / "spool")

    @part
    def online(self) -> OnlineStore:
        """The online store."""
        opened, give_back = _ONLINE.taken(
            self.settings.home / "online", lambda: stores.online_store(self.settings)
        )
        self.closing.append(give_back)
        return opened

    @part
    def event_log(self) -> EventLog:
        """Where pushed events stand first."""
        opened = stores.event_log(self.settings, self.keys, self.clock)
        self.closing.append(opened.close)
        return opened

    @part
    def features(self) -> FeatureStore:
        """The feature store."""
        from falaj.features.store import AppliedDefinitions, FeatureStore

        return FeatureStore(
            AppliedDefinitions(self.database, self.definitions),
            self.lake,
            self.online,
            self.keys,
            self.clock,
            offline=self.offline,
            log=self.event_log,
            locks=private_folder(self.settings.home / "locks"),
            subjects=self.subject_ciphers,
        )

    @part
    def subject_ciphers(self) -> SubjectCiphers:
        """The keys of data subjects that are in use for online rows and events."""
        from falaj.features.subjectsealing import PURPOSE
        from falaj.trust.subjectciphers import SubjectCiphers

        return SubjectCiphers(self.subject_keys, PURPOSE)

    @part
    def run_files(self) -> RunFiles:
        """The files of feature indexes."""
        from falaj.features.index.files import RunFiles

        clear = self.settings.feature_index == "clear"
        return RunFiles(self.settings.home / "index", None if clear else self.keys)

    @part
    def offline(self) -> Offline:
        """The offline execution of features, with its indexes."""
        from falaj.features.foreign_join import Foreign
        from falaj.features.index.indexes import Indexes
        from falaj.features.offline import Offline
        from falaj.features.store import AppliedDefinitions

        budget = self.settings.feature_index_bytes
        erasures = self.subject_ciphers.erasures
        indexes = Indexes(self.lake, self.run_files, budget=budget, erasures=erasures)
        applied = AppliedDefinitions(self.database, self.definitions)
        return Offline(indexes, Foreign(applied, self.foreign_tables))

    # ---- training and models

    @part
    def runs(self) -> Runs:
        """Training runs."""
        from falaj.training.tracking.runs import Runs

        return Runs(self.catalog)

    @part
    def training_sets(self) -> TrainingSets:
        """Pinned training sets."""
        from falaj.training.definition_pins import CatalogPins
        from falaj.training.training_sets import TrainingSets

        return TrainingSets(
            self.lake,
            self.features,
            CatalogPins(self.definitions),
            self.catalog,
            settle=self.features.settle,
            foreign_pins=self.features.foreign_pins,
        )

    @part
    def bundles(self) -> Bundles:
        """Signed model bundles."""
        from falaj.models.bundles import Bundles

        return Bundles(self.blobs, self.keys)

    @part
    def registry(self) -> Registry:
        """Registered models."""
        from falaj.models.registry import Registry

        return Registry(self.bundles, self.catalog, self.definitions)

    @part
    def promotions(self) -> Any:
        """Asks for stages and gives them."""
        from falaj.models.promotion import Promotions

        return Promotions(self.registry, self.changes)

    @part
    def pipelines(self) -> PipelineParts:
        """Pipelines and what runs them."""
        from falaj.wiring.pipelineparts import PipelineParts

        return PipelineParts(self)

    # ---- serving and monitoring

    @part
    def serving(self) -> ServingParts:
        """What answers requests."""
        from falaj.wiring.servingparts import ServingParts

        return ServingParts(self)

    @part
    def monitors(self) -> Monitors:
        """Drift, performance, calibration and fairness."""
        from falaj.wiring.monitorparts import monitors

        return monitors(self)

    # ---- the door

    def visible(self, call: Call, resource: Resource) -> bool:
        """True if a call's caller may know of a resource."""
        return self.policy.decide(call.caller, "assets.get", resource, stepped_up=False).allowed

    def visible_ref(self, call: Call, ref: AssetRef) -> bool:
        """True if a call's caller may know of an asset."""
        return self.visible(call, self.catalog.load(call.connection, ref))

    def may(self, call: Call, action: str, resource: Resource) -> bool:
        """True if a call's caller may do an action on a resource, as it stands now."""
        fresh = call.caller.stepped_up(call.now)
        return self.policy.decide(call.caller, action, resource, stepped_up=fresh).allowed

    def may_on(self, call: Call, action: str, ref: AssetRef) -> bool:
        """``may``, of an asset by its name."""
        return self.may(call, action, self.catalog.load(call.connection, ref))

    def may_handle(self, call: Call, job: Job) -> bool:
        """True if a call's caller may handle a job: its submitter, or who runs jobs."""
        resource = Resource(AssetRef("job", job.id), {"owner": job.submitted_by})
        return self.policy.decide(call.caller, "jobs.cancel", resource, stepped_up=False).allowed

    @part
    def backend(self) -> Backend:
        """What a local door stands on."""
        from falaj.wiring.actions import makers
        from falaj.wiring.auditparts import space
        from falaj.wiring.operationparts import expose

        expose(self)
        return Backend(
            services=Services(makers=makers(self)),
            database=self.database,
            policy=self.policy,
            audit=self.audit,
            resources=self.resources,
            events=Outbox(),
            clock=self.clock,
            telemetry=self.telemetry,
            space=space(self),
        )

    # ---- work

    @part
    def handlers(self) -> Mapping[str, Handler]:
        """What does each kind of job."""
        from falaj.wiring.work import handlers

        return handlers(self)

    def work_on_jobs(self, stopped: threading.Event) -> None:
        """Take and run jobs until ``stopped`` is set."""
        from falaj.wiring.work import work_on_jobs

        work_on_jobs(self, stopped)

    def work(self, stopped: threading.Event) -> None:
        """Jobs, streams, and the house's chores beside them, until ``stopped`` is set."""
        from falaj.wiring.work import work_until

        work_until(self, stopped)

    def server_certificate(self) -> tuple[Path, Path]:
        """The certificate and key files that servers use."""
        return self.certificates.server_files()

    def close(self) -> None:
        """Give files and connections back, in reverse order of their opening."""
        while self.closing:
            self.closing.pop()()


def assemble(
    settings: Settings, *, process: str = "embedded", clock: Clock | None = None
) -> Premises:
    """The premises of an initialised platform.

    Raises:
        NotFound: ``falaj init`` was not run here.
        Unavailable: the database does not answer.
        InvalidInput: a setting names no store, or its secrets are missing.
        SchemaNewer: it was written by a newer version.
    """
    from falaj.wiring.setup import brought_up_to_date

    premises = Premises(stores.checked(settings), process=process, clock=clock)
    try:
        _ = premises.keys
        brought_up_to_date(premises.database)
    except BaseException:
        premises.close()
        raise
    return premises
