"""Two servers of MLflow's API on the same database, asked by the same bare HTTP client.

Ours answers over TLS with its door, its policy and its audit log; MLflow's in clear, with one
worker, uvloop and no jobs, which is its best setting.
"""

from __future__ import annotations

import http.client
import json
import os
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from measuring import ROOT

from falaj.testing.guarded import free_ports
from falaj.testing.installations import ControlPlane
from falaj.testing.mlflowclients import INTERPRETER, MISSING, ForClients
from falaj.testing.servers import PostgresServer
from falaj.trust.model import Role

DATABASES = ("sqlite", "postgresql")


class Tracker:
    """One server, reached by one connection that is kept open.

    Args:
        database: the URL of its database.
        token: gives an access token, if the server wants one.
        ca: the authority of its certificate, if it has one.
    """

    def __init__(
        self,
        name: str,
        address: str,
        pid: int,
        database: str,
        *,
        token: Callable[[], str] | None = None,
        ca: Path | None = None,
    ) -> None:
        self.name, self.pid, self.database = name, pid, database
        self.begun, self.parent = 0.0, pid
        """When its server was started (``time.perf_counter``), and the first of its processes."""
        parts = urlsplit(address)
        self._root = parts.path + "/api/2.0/mlflow/"
        self._headers = {"Content-Type": "application/json"}
        self._token = token
        where = (parts.hostname or "", parts.port)
        if ca is None:
            self._connection = http.client.HTTPConnection(*where, timeout=300)
        else:
            context = ssl.create_default_context(cafile=str(ca))
            self._connection = http.client.HTTPSConnection(*where, timeout=300, context=context)

    def anew(self) -> None:
        """Connect anew, with a new token: servers close a connection that nobody used."""
        if self._token is not None:
            self._headers["Authorization"] = f"Bearer {self._token()}"
        self._connection.close()
        self._connection.connect()
        self.get("experiments/search?max_results=1")

    def post(self, path: str, document: Any) -> bytes:
        """Ask; the body of the answer. Raises RuntimeError unless it is 200."""
        body = document if isinstance(document, bytes) else json.dumps(document).encode()
        self._connection.request("POST", self._root + path, body, self._headers)
        return self._answered(path)

    def get(self, path: str) -> bytes:
        """As ``post``."""
        self._connection.request("GET", self._root + path, headers=self._headers)
        return self._answered(path)

    def _answered(self, path: str) -> bytes:
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{self.name} {path}: {answer.status} {body[:500]!r}")
        return body

    def experiment(self, name: str) -> str:
        """The id of a new experiment."""
        return str(json.loads(self.post("experiments/create", {"name": name}))["experiment_id"])

    def run(self, experiment: str, **more: Any) -> str:
        """The id of a new run."""
        asked = {"experiment_id": experiment, "start_time": int(time.time() * 1000), **more}
        return str(json.loads(self.post("runs/create", asked))["run"]["info"]["run_id"])


@contextmanager
def both(database: str) -> Iterator[tuple[Tracker, Tracker]]:
    """Ours and MLflow's server, on databases of the same kind, on the same disk."""
    if not INTERPRETER.exists():
        raise SystemExit(MISSING)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ROOT / ".venv")))
        ours_url, theirs_url = "sqlite:", f"sqlite:///{folder}/mlflow.db"
        if database == "postgresql":
            server = stack.enter_context(postgresql())
            ours_url = server.url(server.create_database())
            theirs_url = server.url(server.create_database()).replace("+psycopg", "+psycopg2")
        ours = stack.enter_context(our_server(folder / "ours", ours_url))
        yield ours, stack.enter_context(mlflow_server(folder, theirs_url))


@contextmanager
def ours_on(database: str) -> Iterator[Tracker]:
    """Ours alone."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=ROOT / ".venv")))
        url = "sqlite:"
        if database == "postgresql":
            server = stack.enter_context(postgresql())
            url = server.url(server.create_database())
        yield stack.enter_context(our_server(folder / "ours", url))


@contextmanager
def postgresql() -> Iterator[PostgresServer]:
    """A PostgreSQL server, in a folder that its account may enter."""
    with tempfile.TemporaryDirectory(prefix="falaj-pg-") as name:
        Path(name).chmod(0o755)
        server = PostgresServer(Path(name))
        try:
            yield server
        finally:
            server.close()


@contextmanager
def our_server(folder: Path, url: str) -> Iterator[Tracker]:
    """Falaj's control plane, and a connection with the token of a program."""
    installation, more = ControlPlane(folder), ""
    if url.startswith("postgresql"):
        user, _, host = url.partition("@")
        user, _, password = user.rpartition(":")
        installation.variables["FALAJ_DATABASE_PASSWORD"] = password
        more = f'database = "{user}@{host}"\n'
    installation.init(more=more)
    with installation.asked_as(Role.ADMINISTRATOR.value) as ask:
        made = ask("accounts.create_service", name="trainer", roles=[Role.ML_ENGINEER.value])
    begun = time.perf_counter()
    installation.up()
    try:
        account = ForClients(installation, made.secret.get_secret_value())
        address = installation.control + "/mlflow"
        tracker = Tracker(
            "ours",
            address,
            installation.pid("control"),
            url if more else f"sqlite:///{installation.home}/falaj.db",
            token=account.token,
            ca=installation.ca,
        )
        tracker.begun, tracker.parent = begun, installation.process.pid
        tracker.anew()
        yield tracker
    finally:
        installation.stop()


@contextmanager
def mlflow_server(folder: Path, url: str) -> Iterator[Tracker]:
    """MLflow's server at its best, and a connection."""
    (port,) = free_ports(1)
    command = [
        str(INTERPRETER), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", url, "--artifacts-destination", str(folder / "artifacts"),
        "--workers", "1", "--uvicorn-opts", "--loop uvloop",
    ]  # fmt: skip
    surroundings = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    begun = time.perf_counter()
    with (folder / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, env=surroundings, start_new_session=True
        )
    try:
        await_healthy(port, folder / "mlflow.log")
        # Read and written here with the driver of this environment.
        own = url.replace("+psycopg2", "+psycopg")
        tracker = Tracker("MLflow", f"http://127.0.0.1:{port}", process.pid, own)
        tracker.begun = begun
        yield tracker
    finally:
        process.terminate()
        process.wait(30)


def await_healthy(port: int, log: Path) -> None:
    """Return when MLflow's server answers; raises SystemExit if it does not."""
    for _ in range(3000):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/health")
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.04)
        finally:
            connection.close()
    raise SystemExit(log.read_text()[-2000:])
