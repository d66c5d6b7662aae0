"""All settings of Falaj, in one tree; each has a default that needs nothing started.

Sources, strongest first: arguments, ``FALAJ_*`` environment variables (``__`` for a
level: ``FALAJ_HTTP__PORT``), ``falaj.toml`` in the project's folder, the defaults here.
Secrets come from the environment or from files that a setting names, never from the TOML.
"""

from __future__ import annotations

import os
import re
import tomllib
from contextvars import ContextVar
from json import JSONDecodeError
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from falaj.kernel import postgres_tls
from falaj.kernel.errors import Forbidden, InvalidInput
from falaj.kernel.settings_artifacts import ArtifactSettings
from falaj.kernel.settings_audit import AuditSettings
from falaj.kernel.settings_certificates import CertificateSettings
from falaj.kernel.settings_ci import CiSettings
from falaj.kernel.settings_federation import IdentitySettings, secrets_of_providers
from falaj.kernel.settings_keys import SECRETS as KEY_SERVICE_SECRETS
from falaj.kernel.settings_keys import KeyServiceSettings
from falaj.kernel.settings_people import OutgoingSettings, SignInSettings
from falaj.kernel.settings_pipelines import PipelineSettings
from falaj.kernel.settings_privacy import PrivacySettings
from falaj.kernel.settings_provisioning import ProvisioningSettings
from falaj.kernel.settings_queue import QueueSettings
from falaj.kernel.settings_receivers import ReceiverSettings, secrets_of_receivers
from falaj.kernel.settings_supply import SupplyChainSettings
from falaj.kernel.settings_trainers import TrainerSettings
from falaj.kernel.settings_webhooks import WebhookSettings

SETTINGS_FILE = "falaj.toml"
_READ_FROM: ContextVar[Path | None] = ContextVar("settings_read_from", default=None)
_MOST_WORKERS = 256
_SECRET_NAMES = ("passphrase", "password", "secret_key", "traces_headers", "witness_token")
_PASSWORD_OF = {
    "database": "database_password",
    "lake": "lake_password",
    "online": "online_password",
    "event_log": "event_log_password",
    "privacy__subject_keys": "privacy__subject_keys_password",
    "privacy__replica": "privacy__replica_password",
}
_URL_PASSWORD = re.compile(r"^[a-z0-9+.:-]+://[^/@]*:[^/@]+@")


class HttpSettings(BaseModel):
    """Where the control plane listens."""

    model_config = ConfigDict(extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(8443, ge=0, le=65535)
    names: tuple[str, ...] = ("localhost", "127.0.0.1")
    """Host names and addresses that the server's certificate is made for."""
    certificate_file: Path | None = None
    """A certificate chain (PEM) of the operator's own; the built-in CA makes one otherwise."""
    private_key_file: Path | None = None
    max_body_bytes: int = Field(64 * 1024 * 1024, gt=0)


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _range(text: str) -> tuple[int, int]:
    least, _, most = text.partition(":")
    return int(least), int(most or least)


class InferenceSettings(BaseModel):
    """Where the inference workers listen, and their limits."""

    model_config = ConfigDict(extra="forbid")

    host: str = "127.0.0.1"
    port: int = Field(8444, ge=0, le=65535)
    workers: Annotated[str, BeforeValidator(_number_as_text)] = Field(
        "1", pattern=r"^[0-9]{1,3}(:[0-9]{1,3})?$"
    )
    """How many inference processes: a number, or ``least:most``."""
    target_utilisation: float = Field(0.6, ge=0.05, le=0.95)
    """The busy share of a worker that is aimed at between the least and the most."""
    queue_ms: float = Field(20.0, gt=0, le=60_000)
    """So long may requests wait for a worker (p90) before there is one more."""
    scale_down_seconds: float = Field(60.0, ge=1, le=86_400)
    """So long must fewer workers be enough before one is taken away."""
    drain_seconds: float = Field(5.0, ge=0, le=600)
    """So long does a worker that is replaced or taken away wait for silent clients."""
    idle_seconds: float = Field(0.0, ge=0, le=31_536_000)
    """An endpoint that nobody asks for so long is unloaded until it is asked; 0: never."""
    keep_seconds: float = Field(300.0, ge=0, le=86_400)
    """So long does what an endpoint served before stay in memory, ready for a rollback."""
    ray: str = ""
    """Workers run as actors on this Ray cluster (``auto``, ``host:6379``); empty: here."""
    ray_cpus: float = Field(1.0, ge=0, le=1024)
    """Cores of one actor."""
    ray_gpus: float = Field(0.0, ge=0, le=64)
    """GPUs of one actor; a share of one is allowed."""
    flush_rows: int = Field(1000, gt=0)
    flush_seconds: float = Field(1.0, gt=0)
    log_bytes: int = Field(16 << 20, ge=1 << 20)
    """Of shared memory, in which the predictions of one worker wait for the log writer."""
    client_ca_file: Path | None = None
    """Clients must show a certificate of these authorities (PEM); None: they need none."""
    grpc_port: int = Field(0, ge=0, le=65535)
    """Where the workers also listen for gRPC; 0: they do not."""
    grpc_message_bytes: int = Field(4 << 20, ge=1 << 10, le=1 << 30)
    """No message over gRPC may be larger, whatever an endpoint takes."""
    access_log: str = ""
    """One line of JSON for each request: ``stdout``, or a file; nothing if it is empty."""
    trees: Literal["compiled", "onnxruntime"] = "compiled"
    """What scores ensembles of trees: compiled loops of our own, or ONNX Runtime."""

    @field_validator("workers")
    @classmethod
    def _in_order(cls, text: str) -> str:
        least, most = _range(text)
        if not 1 <= least <= most <= _MOST_WORKERS:
            raise ValueError(f"a number from 1 to {_MOST_WORKERS}, or least:most")
        return text

    @property
    def least_workers(self) -> int:
        """There are always so many workers."""
        return _range(self.workers)[0]

    @property
    def most_workers(self) -> int:
        """There are never more workers."""
        return _range(self.workers)[1]


class StreamSettings(BaseModel):
    """How pushed events wait, and how often they move into the lake."""

    model_config = ConfigDict(extra="forbid")

    lake_seconds: float = Field(10.0, gt=0)
    """Events move into the lake that often."""
    lake_rows: int = Field(500_000, gt=0)
    """Or as soon as so many wait for it."""
    waiting_bytes: int = Field(1 << 30, ge=1 << 20)
    """So much of a partition may wait in the embedded log; beyond it pushes are refused."""
    kafka_records: Literal["sealed", "clear"] = "sealed"
    """How pushed events lie in Kafka: encrypted, or in clear for others to read."""


class Settings(BaseSettings):
    """The settings of one platform."""

    model_config = SettingsConfigDict(
        env_prefix="FALAJ_", env_nested_delimiter="__", extra="forbid", frozen=True
    )

    home: Path = Path(".falaj")
    """The folder of everything that is kept here: 0700, owned by whoever runs Falaj."""
    database: str = "sqlite:"
    """``sqlite:`` (in home) or ``postgresql+psycopg://user@host/name``."""
    database_password: SecretStr | None = None
    database_ca_file: Path | None = None
    """The authorities (PEM) of the certificates of PostgreSQL servers, the lake's too."""
    lake: str = "ducklake:"
    """``ducklake:`` (in home) or ``ducklake:postgres:postgresql://user@host/name``."""
    lake_password: SecretStr | None = None
    """Joined to the connection of a catalogue in PostgreSQL."""
    lake_data: str = "file:"
    """``file:`` (in home) or ``s3://bucket/prefix?endpoint=…&region=…``."""
    blobs: str = "file:"
    """``file:`` (in home) or ``s3://bucket/prefix?endpoint=…&region=…``."""
    s3_access_key: SecretStr | None = None
    s3_secret_key: SecretStr | None = None
    online: str = "lmdb:"
    """``lmdb:`` (in home) or ``rediss://user@host:6379/0?prefix=…&replicas=…``."""
    online_password: SecretStr | None = None
    online_ca_file: Path | None = None
    """The authorities (PEM) that the Redis server's certificate may be signed by."""
    online_certificate_file: Path | None = None
    """A client's certificate (PEM), for a Redis server that asks for one."""
    online_private_key_file: Path | None = None
    feature_index: str = Field("sealed", pattern="^(sealed|clear)$")
    """How indexes of views stand on disk: encrypted, or in clear and mapped into memory."""
    feature_index_bytes: int = Field(4 * 2**30, ge=2**20)
    """How much of them is held in memory at most (mapped files do not count)."""
    event_log: str = "segments:"
    """``segments:`` (in home) or ``kafkas://user@host:9093,host:9093?mechanism=…``."""
    event_log_password: SecretStr | None = None
    event_log_ca_file: Path | None = None
    """The authorities (PEM) that the brokers' certificates may be signed by."""
    event_log_certificate_file: Path | None = None
    """A client's certificate (PEM), for brokers that ask for one."""
    event_log_private_key_file: Path | None = None
    keys: str = "keyring:"
    """``keyring:`` (a sealed file in home), ``openbao://host:8200/transit?prefix=…``,
    ``pkcs11:/path/module.so?token=…`` or ``awskms://region?prefix=…``."""
    key_service: KeyServiceSettings = KeyServiceSettings()
    keyring_passphrase: SecretStr | None = None
    """Seals the keyring; without it a machine secret beside the keyring does."""
    data_folders: tuple[Path, ...] = (Path(),)
    """Folders that sources may read files from; relative to the project's folder."""
    compute: str = "local:"
    """Where tasks of jobs run: ``local:`` (a process for each core), ``local:2``, ``ray:`` (a Ray
    that is started here) or ``ray://host:port``."""
    compute_memory_bytes: int = Field(4 * 2**30, ge=2**29)
    """So much memory may one task have."""
    job_lease_seconds: float = Field(30.0, ge=1, le=3600)
    """After so long without a sign of its worker, a job is taken up by another one."""
    parity_minutes: float = Field(15.0, ge=0, le=100_000)
    """How often served features are computed again offline and compared; 0: never."""
    environment: str = Field("", pattern=r"^[a-z0-9_-]{0,63}$")
    """What this installation is for (``production``); policies see it."""
    region: str = "local"
    """The region that this installation stands in; assets inherit it."""
    http: HttpSettings = HttpSettings()
    inference: InferenceSettings = InferenceSettings()
    streams: StreamSettings = StreamSettings()
    sign_in: SignInSettings = SignInSettings()
    identity: IdentitySettings = IdentitySettings()
    outgoing: OutgoingSettings = OutgoingSettings()
    certificates: CertificateSettings = CertificateSettings()
    supply_chain: SupplyChainSettings = SupplyChainSettings()
    audit: AuditSettings = AuditSettings()
    privacy: PrivacySettings = PrivacySettings()
    provisioning: ProvisioningSettings = ProvisioningSettings()
    ci: CiSettings = CiSettings()
    artifacts: ArtifactSettings = ArtifactSettings()
    trainers: TrainerSettings = TrainerSettings()
    queue: QueueSettings = QueueSettings()
    pipelines: PipelineSettings = PipelineSettings()
    webhooks: WebhookSettings = WebhookSettings()
    receivers: ReceiverSettings = ReceiverSettings()
    traces: str = ""
    """Where traces go, by OTLP over HTTP: ``https://collector:4318``; nowhere if it is empty."""
    traces_ratio: float = Field(0.01, ge=0, le=1)
    """The share of requests without a trace context that are traced."""
    traces_headers: SecretStr | None = None
    """Sent with every export: ``name=value,name=value``."""
    traces_ca_file: Path | None = None
    """The authorities (PEM) that the collector's certificate may be signed by."""
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$")
    log_format: str = Field("json", pattern="^(json|text)$")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then falaj.toml."""
        toml = TomlConfigSettingsSource(settings_cls, toml_file=_READ_FROM.get())
        return (init_settings, env_settings, toml)

    @classmethod
    def read(cls, folder: Path | str = ".", **given: Any) -> Self:
        """The settings of the project in a folder.

        Raises:
            InvalidInput: a setting is unknown or wrong, the TOML does not parse, or it
                holds a secret; names the setting and its source.
        """
        folder = Path(folder)
        file = folder / SETTINGS_FILE
        if file.exists():
            _check_file(file)
        # A class whose configuration names the file would have to be made for each reading.
        reset = _READ_FROM.set(file)
        try:
            settings = cls(**given)
        except ValidationError as error:
            told = "; ".join(
                f"{'.'.join(str(part) for part in item['loc'])}: {item['msg']}"
                for item in error.errors(include_input=False, include_url=False)
            )
            raise InvalidInput(
                f"The settings are wrong: {told}.",
                hint=f"They were read from arguments, FALAJ_* variables and {file}.",
            ) from None
        except SettingsError as error:
            raise _not_json(error) from None
        finally:
            _READ_FROM.reset(reset)
        base = folder.resolve()
        return settings.model_copy(
            update={
                "home": base / settings.home,
                "data_folders": tuple(base / data for data in settings.data_folders),
                "inference": settings.inference.model_copy(
                    update={"access_log": _beside(base, settings.inference.access_log)}
                ),
            }
        )

    @property
    def database_url(self) -> str:
        """The database's URL for SQLAlchemy, with its password if one is set.

        To a PostgreSQL on another machine it asks for TLS. Raises InvalidInput: it says
        that none is needed.
        """
        if self.database == "sqlite:":
            return f"sqlite:///{self.home / 'falaj.db'}"
        secured = self.database
        if secured.startswith("postgresql"):
            secured = postgres_tls.secured(secured, self.database_ca_file, setting="database")
        if self.database_password is not None:
            from sqlalchemy.engine import make_url

            url = make_url(secured).set(password=self.database_password.get_secret_value())
            return url.render_as_string(hide_password=False)
        return secured

    @property
    def lake_url(self) -> str:
        """The setting ``lake``, asking for TLS as ``database_url`` does."""
        kind, _, rest = self.lake.removeprefix("ducklake:").partition(":")
        if kind != "postgres":
            return self.lake
        connection = postgres_tls.secured(rest, self.database_ca_file, setting="lake")
        return f"ducklake:postgres:{connection}"


def _not_json(error: SettingsError) -> InvalidInput:
    """Names the variable whose text is no JSON, not the text: it may be a secret."""
    text = error.__cause__.doc if isinstance(error.__cause__, JSONDecodeError) else None
    named = sorted(
        name for name, value in os.environ.items()
        if name.upper().startswith("FALAJ_") and value == text
    )  # fmt: skip
    if not named:
        return InvalidInput(f"The settings are wrong: {error}.", hint="Mend the FALAJ_* variables.")
    return InvalidInput(
        f"The variable {' or '.join(named)} is not valid JSON, in which a setting of several "
        "values is written.",
        hint=f"""A list is {named[0]}='["127.0.0.1"]', a mapping '{{"name": "value"}}'.""",
    )


def _check_file(file: Path) -> None:
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(
            f"The settings file {file} is not valid TOML: {error}.", hint="Mend that line."
        ) from None
    held = [
        name
        for name, value in document.items()
        if any(secret in name for secret in _SECRET_NAMES) or _holds_password(value)
    ]
    privacy = document.get("privacy", {})
    held += [
        f"privacy__{name}"
        for name, value in (privacy if isinstance(privacy, dict) else {}).items()
        if any(secret in name for secret in _SECRET_NAMES) or _holds_password(value)
    ]
    nested = document.get("key_service")
    of_keys = [name for name in KEY_SERVICE_SECRETS if name in nested] if nested else []
    held += [f"key_service__{name}" for name in of_keys]
    held += secrets_of_providers(document) + secrets_of_receivers(document)
    if held:
        secret = _PASSWORD_OF.get(held[0], held[0])
        raise InvalidInput(
            f"The settings file {file} holds a secret ({held[0]}).",
            hint=f"Remove it there and set the variable FALAJ_{secret.upper()} instead.",
        )


def _beside(base: Path, place: str) -> str:
    """A file's path, relative to the project's folder; other places as they are."""
    return place if place in ("", "stdout") else str(base / place)


def _holds_password(value: object) -> bool:
    """True if a URL or a connection string has a password in it."""
    if not isinstance(value, str):
        return False
    return bool(_URL_PASSWORD.match(value)) or "password=" in value.replace(" ", "").lower()


def is_there(path: Path) -> bool:
    """True if a file or folder exists.

    Raises:
        Forbidden: the folder that it would stand in is closed to us.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        raise Forbidden(
            f"{path} may not be looked at: its folder belongs to somebody else.",
            hint="Run Falaj as the user who ran `falaj init`, or choose your own folder.",
        ) from None
    return True


def private_folder(path: Path) -> Path:
    """The folder, made if it is missing, readable by its owner alone.

    Raises:
        InvalidInput: the path cannot be made or belongs to somebody else.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise InvalidInput(
            f"The folder {path} cannot be used: {error.strerror}.",
            hint="Choose another with the setting `home`, or mend its permissions.",
        ) from None
    return path
