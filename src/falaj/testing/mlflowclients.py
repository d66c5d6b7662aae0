"""MLflow's unmodified client against a control plane over TLS, for tests and benchmarks.

The client lives in an environment of its own (``make mlflow-client``), so a script for it is
run by that environment's interpreter, with the variables that MLflow's guide names.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from falaj.kernel.call import Caller, Principal, PrincipalKind
from falaj.kernel.door import LocalDoor
from falaj.testing.installations import ControlPlane, client
from falaj.trust.model import Role
from falaj.wiring.assembly import Premises

INTERPRETER = Path(__file__).parents[3] / ".venv-peers" / "mlflow" / "bin" / "python"
MISSING = "MLflow's client is not there: `make mlflow-client` installs it"
TORCH = INTERPRETER.parents[1] / ".torch"
WITHOUT_TORCH = (
    "PyTorch is not in the environment of MLflow's client: `make mlflow-torch` installs it"
)
_NAME = "trainer"
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class ScriptFailed(AssertionError):
    """A script of the client ended with an error; its output is the text."""


class ForClients:
    """A control plane, and a service account that may track and register.

    Args:
        installation: one that runs.
        secret: of the service account.
    """

    def __init__(self, installation: ControlPlane, secret: str) -> None:
        self.installation = installation
        self._secret = secret

    def token(self) -> str:
        """A fresh access token."""
        wanted = {"name": _NAME, "secret": self._secret}
        with client(self.installation.control, self.installation.ca) as web:
            answer = web.post("/auth/service-login", json=wanted).raise_for_status()
        return str(answer.json()["access_token"])

    def variables(self) -> dict[str, str]:
        """What a user of MLflow's client sets."""
        return {
            "MLFLOW_TRACKING_URI": self.installation.control + "/mlflow",
            "MLFLOW_TRACKING_TOKEN": self.token(),
            "MLFLOW_TRACKING_SERVER_CERT_PATH": str(self.installation.ca),
            "REQUESTS_CA_BUNDLE": str(self.installation.ca),
        }

    def credentials(self) -> dict[str, str]:
        """The service account's name and secret, as the client takes them."""
        return {"MLFLOW_TRACKING_USERNAME": _NAME, "MLFLOW_TRACKING_PASSWORD": self._secret}

    def run(
        self,
        script: Path,
        *words: str,
        seconds: float = 240.0,
        variables: Mapping[str, str] | None = None,
    ) -> Any:
        """Run a script of the client; gives what its last line says in JSON.

        Args:
            words: its arguments.
            seconds: how long it may take.
            variables: more of them, or others.

        Raises:
            ScriptFailed: it ended with an error.
        """
        return run_script(script, *words, seconds=seconds, variables={
            **self.variables(), **(variables or {}),
        })  # fmt: skip


def run_script(
    script: Path, *words: str, variables: Mapping[str, str], seconds: float = 240.0
) -> Any:
    """Run a script with the client's interpreter; see ``ForClients.run``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("FALAJ_", "MLFLOW_", "PYTHON", "COVERAGE_"))
    }
    done = subprocess.run(
        [str(INTERPRETER), str(script), *words],
        env={**kept, **_QUIET, **variables},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    if done.returncode:
        raise ScriptFailed(f"{script.name} {' '.join(words)}\n{done.stdout}\n{done.stderr}")
    lines = done.stdout.strip().splitlines()
    return json.loads(lines[-1]) if lines else None


@contextmanager
def for_clients(folder: Path, *, more: str = "") -> Iterator[ForClients]:
    """A control plane in a folder, running, with an account for MLflow's clients.

    Args:
        more: further settings, as TOML.
    """
    installation = ControlPlane(folder)
    installation.init(more=more)
    secret = _service_account(installation)
    installation.up()
    try:
        yield ForClients(installation, secret)
    finally:
        installation.stop()


def _service_account(installation: ControlPlane) -> str:
    """Make the account; gives its secret. Works beside a small world, which is another platform."""
    premises = Premises(installation.settings, process="test")
    try:
        roles = (Role.ADMINISTRATOR.value,)
        principal = Principal("user:somebody", PrincipalKind.USER, roles)
        caller = Caller(principal, mfa_at=premises.clock.now(), via="test")
        action = premises.backend.services.actions["accounts.create_service"]
        asked = {"name": _NAME, "roles": [Role.ML_ENGINEER.value]}
        made = LocalDoor(premises.backend, caller).call(action, asked)
        return str(made.secret.get_secret_value())
    finally:
        premises.close()
