"""The platform as its users hold it: ``falaj.open()`` near, ``falaj.connect()`` far.

Both give a ``Platform`` whose attributes are the services; each of their methods is a call
through a door. Only the door differs.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

from falaj.interfaces.doorway import Doorway
from falaj.interfaces.sdk import Training
from falaj.kernel.door import LocalDoor, face
from falaj.kernel.errors import FalajError, InvalidInput, StepUpRequired, Unauthenticated
from falaj.kernel.jobs import Job, JobCancelled, JobState
from falaj.kernel.ports import Door
from falaj.kernel.problems import rebuilt
from falaj.wiring.services import service_classes

if TYPE_CHECKING:
    import httpx

    from falaj.catalog.service import AssetService, DefinitionService
    from falaj.features.service import Features
    from falaj.ingest.contract_service import ContractService
    from falaj.ingest.service import SourceService
    from falaj.interfaces.certified import CertifiedTransport
    from falaj.interfaces.credentials import RenewedTokens
    from falaj.interfaces.devicelogin import Show
    from falaj.kernel.jobs_service import JobsService
    from falaj.lake.erasure_service import PrivacyService
    from falaj.lake.service import TableService
    from falaj.models.ci_service import CiService
    from falaj.models.service import ModelService
    from falaj.monitoring.retraining_service import RetrainingService
    from falaj.monitoring.service import MonitorService
    from falaj.operations.alerting_service import ReceiverService, SilenceService
    from falaj.operations.incident_service import IncidentService, ProblemService
    from falaj.operations.policy_service import PolicyService
    from falaj.operations.service import AlertService, ChangeService
    from falaj.operations.service_level_service import ServiceLevelService
    from falaj.operations.webhooks_service import WebhookService
    from falaj.rollouts.planning_service import PlanningService
    from falaj.rollouts.service import RolloutService
    from falaj.serving.service import EndpointService
    from falaj.training.costs.service import CostService
    from falaj.training.frames import TrainingFrame
    from falaj.training.loggedmodel_service import LoggedModelService
    from falaj.training.model import TimeSplit
    from falaj.training.pipelines.service import PipelineService
    from falaj.training.service import RunService
    from falaj.training.tracking.service import ExperimentService
    from falaj.training.tuning.service import StudyService
    from falaj.trust.audit_service import Audit
    from falaj.trust.certificates_service import CertificateService
    from falaj.trust.keys_service import Keys
    from falaj.trust.provisioning_service import ProvisioningService
    from falaj.trust.service import AccountsService
    from falaj.wiring.assembly import Premises


OnStepUp = Callable[["Platform", StepUpRequired], None]
"""Presents a factor (``platform.step_up``, ``platform.step_up_in_browser``) or raises."""


def ask_for_code(platform: Platform, required: StepUpRequired) -> None:
    """An ``on_step_up`` for terminals and notebooks: asks for a code, or leads to a browser.

    Raises:
        WrongCredentials: the code is wrong.
    """
    from getpass import getpass

    code = getpass(f"{required.message} One-time code (empty: with a passkey in a browser): ")
    if code.strip():
        platform.step_up(code)
    else:
        platform.step_up_in_browser()


class JobFailed(FalajError):
    """A job that was waited for has failed."""

    code = "job-failed"


class Platform:
    """A platform, near or far, as one caller.

    Each service is an attribute (``platform.models``); ``dir(platform.models)`` lists its
    actions. Use it as a context manager, or call ``close``.
    """

    sources: SourceService
    contracts: ContractService
    tables: TableService
    definitions: DefinitionService
    features: Features
    training: Training
    runs: RunService
    loggedmodels: LoggedModelService
    experiments: ExperimentService
    studies: StudyService
    costs: CostService
    pipelines: PipelineService
    models: ModelService
    endpoints: EndpointService
    monitors: MonitorService
    planning: PlanningService
    retraining: RetrainingService
    rollouts: RolloutService
    changes: ChangeService
    alerts: AlertService
    incidents: IncidentService
    webhooks: WebhookService
    silences: SilenceService
    problems: ProblemService
    service_levels: ServiceLevelService
    receivers: ReceiverService
    assets: AssetService
    privacy: PrivacyService
    accounts: AccountsService
    certificates: CertificateService
    provisioning: ProvisioningService
    policy: PolicyService
    ci: CiService
    keys: Keys
    audit: Audit
    jobs: JobsService

    def __init__(
        self,
        door: Door,
        *,
        step_up: Callable[[Door, str], Door],
        close: Callable[[], None],
        help_out: Callable[[threading.Event], None] | None = None,
        through_browser: Callable[[Show], None] | None = None,
        on_step_up: OnStepUp | None = None,
    ) -> None:
        """Made by ``falaj.open`` and ``falaj.connect``.

        Args:
            door: takes the calls.
            step_up: presents a one-time code; returns the door to use from now on.
            close: gives everything back.
            help_out: works on jobs in this process until the event is set (near only).
            through_browser: has a factor presented in a browser (far only).
            on_step_up: presents a factor when an action needs one.
        """
        ask = None if on_step_up is None else lambda required: on_step_up(self, required)
        self._doorway = Doorway(door, ask)
        self._through_browser = through_browser
        self._step_up = step_up
        self._close = close
        self._help_out = help_out
        self._stopped = threading.Event()
        self._helper: threading.Thread | None = None
        for name, service in service_classes().items():
            setattr(self, name, face(service, self._doorway))
        self.training = Training(self.training, self.runs, self.studies)

    @property
    def door(self) -> Door:
        """The door behind the services."""
        return self._doorway

    def step_up(self, code: str) -> None:
        """Present a one-time code: for five minutes, sensitive actions are open.

        Raises:
            WrongCredentials: the code is wrong or was used before.
        """
        self._doorway.door = self._step_up(self._doorway.door, code)

    def step_up_in_browser(self, show: Show = print) -> None:
        """Present a factor, a passkey too, in a browser that is signed in to the server.

        ``show`` is given the link to open; this waits until the person has decided.

        Raises:
            InvalidInput: the platform is near, or the caller is no person's session.
            AccessDenied, ExpiredCode: the person has refused, or did not decide in time.
        """
        if self._through_browser is None:
            raise InvalidInput(
                "Only a person's session on a server is stepped up in a browser.",
                hint="Present a one-time code: platform.step_up(code).",
            )
        self._through_browser(show)

    def wait(
        self,
        job: Job | str,
        *,
        on_progress: Callable[[Job], None] = lambda _job: None,
        timeout_seconds: float = 3600.0,
    ) -> Job:
        """Follow a job until it ends; near, this process works on jobs meanwhile.

        Raises:
            JobFailed: it failed; the reason is in the error.
            InvalidInput: it did not end in time.
        """
        job_id = job if isinstance(job, str) else job.id
        self._work_here()
        patience = time.monotonic() + timeout_seconds
        pause = 0.01
        while True:
            seen = self.jobs.get(job_id)
            on_progress(seen)
            if seen.state is JobState.FAILED:
                raise _failure(seen)
            if seen.state.ended:
                return seen
            if time.monotonic() > patience:
                raise InvalidInput(
                    f"The job {job_id} did not end within {timeout_seconds:.0f} s.",
                    hint="It goes on; wait again, or stop it with jobs.cancel.",
                )
            time.sleep(pause)
            pause = min(pause * 1.5, 0.25)

    def training_set(
        self,
        spine: Any,
        service: str,
        *,
        purpose: str | None = None,
        timestamp: str = "timestamp",
        knowledge: Literal["recorded", "event"] = "recorded",
        label: str | None = None,
        split: TimeSplit | None = None,
        on_progress: Callable[[Job], None] = lambda _job: None,
        timeout_seconds: float = 3600.0,
    ) -> TrainingFrame:
        """The rows of a spine with the features of a service, as known at each row's instant.

        Exactly one row for each row of the spine, in its order (with a ``split``: ordered
        by time). The set is pinned: definition versions, lake snapshot, hashes of spine
        and content; ``training.recreate`` makes it again to the same bytes. Its rows stay
        in the lake and are read in batches.

        Args:
            spine: the entity keys, request fields and an instant of each row: an Arrow
                table or reader, a Polars or pandas frame, the name of a lake table, or a
                SELECT over lake tables.
            service: the name of a feature service.
            purpose: what the features are for, where their views name purposes.
            timestamp: the spine's column of instants.
            knowledge: ``recorded`` hides rows that were recorded later than the instant.
            label: the spine's column that a model shall learn, which features never see.
            split: cuts the rows into train, validation and test by time.
            on_progress: is shown the job as it goes on.
            timeout_seconds: how long to wait for it.

        Raises:
            InvalidInput: a column is missing or of the wrong type, or there are no rows.
            NotFound: no such service or table.
            PurposeRefused: the views do not permit this purpose.
        """
        from falaj.interfaces.spines import is_table, parts_of
        from falaj.lake.service import TableService
        from falaj.training.service import TrainingService

        stating = self._doorway.with_purpose(purpose)
        asked: dict[str, Any] = {
            "feature_service": service,
            "timestamp": timestamp,
            "knowledge": knowledge,
            "label": label,
            "split": split,
        }
        if isinstance(spine, str):
            asked["spine" if is_table(spine) else "spine_query"] = spine
        else:
            tables = face(TableService, stating)
            asked["spine"] = [tables.upload(part).table for part in parts_of(spine)]
        prepare: Callable[..., Job] = face(TrainingService, stating).prepare
        job = prepare(asked)  # the door checks it
        done = self.wait(job, on_progress=on_progress, timeout_seconds=timeout_seconds)
        if done.state is JobState.CANCELLED:
            raise JobCancelled(f"The job {done.id}, which makes the training set, was cancelled.")
        return self.training_frame(done.result["training_set"], purpose=purpose)

    def training_frame(self, training_set: str, *, purpose: str | None = None) -> TrainingFrame:
        """A training set that was made before, as ``training_set`` gave it; raises NotFound."""
        from falaj.training.frames import TrainingFrame
        from falaj.training.service import TrainingService

        training = face(TrainingService, self._doorway.with_purpose(purpose))
        made = training.set(training_set)
        return TrainingFrame(
            made, lambda first, limit: training.rows(made.id, first=first, limit=limit)
        )

    def _work_here(self) -> None:
        if self._help_out is not None and self._helper is None:
            self._helper = threading.Thread(
                target=self._help_out, args=(self._stopped,), name="falaj-jobs", daemon=True
            )
            self._helper.start()

    def close(self) -> None:
        """End the runs of this process, stop what works here, give files and connections back."""
        try:
            self.training.close()
        finally:
            self._stopped.set()
            if self._helper is not None:
                self._helper.join()
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _failure(job: Job) -> FalajError:
    told = job.error or {}
    reason = rebuilt({"detail": told.get("message", ""), **told})
    return JobFailed(
        f"The job {job.id} ({job.kind}) failed: {reason.message}",
        hint=reason.hint,
        job=job.id,
        reason=told.get("code"),
    )


def open_platform(
    folder: Path | str = ".",
    *,
    purpose: str | None = None,
    on_step_up: OnStepUp | None = None,
    **settings: Any,
) -> Platform:
    """The platform of a folder, in this process, as its owner.

    Args:
        folder: where ``falaj init`` was run.
        purpose: why data is asked for, where a classification or a view demands it.
        on_step_up: presents a factor when an action needs one (``falaj.ask_for_code``); without
            it the action raises StepUpRequired.
        settings: override settings by name.

    Raises:
        InvalidInput: a setting is wrong.
        NotFound: there is no platform in this folder.
        Unavailable: a component does not answer.
    """
    from falaj.kernel.settings import Settings
    from falaj.kernel.telemetry import logging_by_default
    from falaj.wiring.assembly import assemble

    logging_by_default()
    premises = assemble(Settings.read(folder, **settings))
    try:
        return near(premises, close=premises.close, purpose=purpose, on_step_up=on_step_up)
    except BaseException:
        premises.close()
        raise


def near(
    premises: Premises,
    *,
    close: Callable[[], None] = lambda: None,
    purpose: str | None = None,
    on_step_up: OnStepUp | None = None,
) -> Platform:
    """The platform of premises that are open in this process, as its owner.

    Args:
        premises: all parts of the platform.
        purpose: why data is asked for.
        close: what closing the platform gives back; nothing if somebody else keeps them.
        on_step_up: presents a factor when an action needs one.

    Raises:
        NotFound: there is no owner's key here.
        WrongCredentials: the key belongs to no active account.
    """
    from falaj.wiring.setup import owner_key

    caller = premises.authentication.by_key(owner_key(premises.settings))

    def step_up(door: Door, code: str) -> Door:
        from pydantic import SecretStr

        assert isinstance(door, LocalDoor)  # noqa: S101 - made a few lines below
        return door.as_(premises.authentication.step_up(door.caller, SecretStr(code)))

    return Platform(
        LocalDoor(premises.backend, caller).with_purpose(purpose),
        step_up=step_up,
        close=close,
        help_out=premises.work_on_jobs,
        on_step_up=on_step_up,
    )


def connect(
    url: str,
    *,
    token: str | None = None,
    service: str | None = None,
    secret: str | None = None,
    certificate: Path | str | None = None,
    ca: Path | str | None = None,
    purpose: str | None = None,
    timeout_seconds: float = 60.0,
    on_step_up: OnStepUp | None = None,
) -> Platform:
    """A platform on a server, as one caller.

    Args:
        url: the control plane's address, ``https://…``.
        token: an access token; or
        service, secret: a service account's name and secret; or neither, and the
            credentials of ``falaj login`` are used.
        certificate: a folder for the service account's certificate, which is got with the
            secret (once) and renewed by itself; then no secret is sent, and the tokens are
            worth nothing without the key.
        ca: a file with the certificate authority to trust (PEM).
        purpose: why data is asked for, where a classification demands it.
        on_step_up: presents a factor when an action needs one (``falaj.ask_for_code``); without
            it the action raises StepUpRequired.

    Raises:
        InvalidInput: the address is not https, or the CA file cannot be read.
        Unauthenticated: there are no credentials for this server.
    """
    import httpx

    from falaj.interfaces.client import RemoteDoor
    from falaj.interfaces.credentials import ServiceTokens

    url = url.rstrip("/")
    if certificate is not None:
        way = certified(url, Path(certificate), service=service, secret=secret, ca=ca)
        shown = httpx.Client(base_url=url, transport=way, timeout=timeout_seconds)
        door = RemoteDoor(shown, way.token, purpose=purpose)
        return Platform(door, step_up=_no_step_up, close=shown.close)
    client = httpx.Client(base_url=url, verify=trusted(url, ca), timeout=timeout_seconds)
    source: Callable[[], str]
    renewed: RenewedTokens | None = None
    if token is not None:
        source = lambda: token  # noqa: E731 - a named function would say no more
    elif service is not None:
        source = ServiceTokens(client, service, secret or "")
    else:
        source = renewed = _logged_in(client, url)

    def step_up(door: Door, code: str) -> Door:
        if renewed is None:
            return _no_step_up(door, code)
        renewed.step_up(code)
        return door

    return Platform(
        RemoteDoor(client, source, purpose=purpose),
        step_up=step_up,
        close=client.close,
        through_browser=renewed.step_up_through_browser if renewed is not None else None,
        on_step_up=on_step_up,
    )


def _logged_in(client: httpx.Client, url: str) -> RenewedTokens:
    """The session of ``falaj login`` with a server; raises Unauthenticated if there is none."""
    from falaj.interfaces.credentials import CredentialFile, RenewedTokens, default_file

    file = CredentialFile(default_file())
    kept, signed = file.get(url), file.signing(url)
    if signed is not None:
        client.auth = signed
    if kept is None:
        raise Unauthenticated(
            f"There are no credentials for {url}.",
            hint=f"Run `falaj --url {url} login`, or give token= or service= and secret=.",
        )
    return RenewedTokens(client, kept, lambda tokens: file.put(url, tokens))


def _no_step_up(_door: Door, _code: str) -> Door:
    raise InvalidInput(
        "Only a person's session can be stepped up.",
        hint="Log in with `falaj login` and connect without token= and service=.",
    )


def certified(
    control: str,
    folder: Path,
    *,
    service: str | None = None,
    secret: str | None = None,
    ca: Path | str | None = None,
) -> CertifiedTransport:
    """Connections of a service account that show its certificate, which renews itself.

    Raises:
        Unauthenticated: the folder holds no good certificate, and there is no secret.
    """
    from falaj.interfaces.certificatesource import CertificateSource
    from falaj.interfaces.certified import CertifiedTransport

    source = CertificateSource(
        control, folder, trusted=lambda: trusted(control, ca), service=service, secret=secret
    )
    source.start()
    return CertifiedTransport(source, control)


def trusted(url: str, ca: Path | str | None) -> ssl.SSLContext:
    """A TLS context that trusts the system's authorities, or only the given one.

    Raises:
        InvalidInput: the address is not https, or the file holds no certificate.
    """
    if not url.startswith("https://"):
        raise InvalidInput(
            f"The address {url} does not begin with https://.",
            hint="Falaj speaks TLS only; `falaj up` prints its address.",
        )
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if ca is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_verify_locations(str(ca))
        except OSError as error:
            raise InvalidInput(
                f"The certificate authority {ca} cannot be used: {error}.",
                hint="`falaj up` prints the path of its own.",
            ) from None
    return context
