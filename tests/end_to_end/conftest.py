"""A running platform that the tests of this folder share, and what people do on it."""

import fcntl
import importlib.util
import json
import os
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from falaj.interfaces.cli import main
from falaj.kernel.call import Principal, PrincipalKind
from falaj.testing.guarded import Account, GuardedServer, Started, free_ports
from falaj.testing.installations import (
    SURROUNDINGS,
    Installation,
    Person,
    client,
    falaj_command,
)
from falaj.wiring.assembly import assemble


def _module(name):
    known = f"end_to_end_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, Path(__file__).with_name(f"{name}.py"))
        module = importlib.util.module_from_spec(spec)
        sys.modules[known] = module
        spec.loader.exec_module(module)
    return sys.modules[known]


@pytest.fixture(scope="session")
def story():
    """The module that tells the main flow."""
    return _module("story")


@dataclass
class Running:
    """The shared platform: its folder, its addresses, its people, what they did."""

    installation: Installation
    engineer: Person
    approver: Person
    service: dict
    """Name and secret of a service account."""
    told: dict

    @property
    def control(self):
        return self.installation.control

    @property
    def inference(self):
        return self.installation.inference

    @property
    def ca(self):
        return self.installation.ca

    def web(self, token=None):
        """An HTTP client of the control plane."""
        return client(self.control, self.ca, token)

    def asked(self, token=None):
        """An HTTP client of the inference worker."""
        return client(self.inference, self.ca, token)


@pytest.fixture(scope="session")
def running(shared_folder, story):
    """`falaj up` on a platform whose model was trained, approved, deployed and asked."""
    server = GuardedServer(shared_folder, "falaj-up", lambda folder: _start(folder, story), _ready)
    facts = server.acquire()
    try:
        with (shared_folder / "falaj-up-told.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            kept = Path(facts["folder"]) / "told.json"
            if not kept.exists():
                kept.write_text(json.dumps(_tell(facts, story), default=str))
            kept_facts = json.loads(kept.read_text())
        yield _running(facts, kept_facts)
    finally:
        server.release()


def _start(folder, story):
    control, inference = free_ports(2)
    installation = Installation(folder / "project")
    installation.init(http_port=control, inference_port=inference)
    story.write_data(installation.folder)
    return Started(
        command=[
            "env",
            *(f"{name}={value}" for name, value in SURROUNDINGS.items()),
            *falaj_command(installation.folder, "up"),
        ],
        facts={
            "folder": str(installation.folder),
            "control": f"https://127.0.0.1:{control}",
            "inference": f"https://127.0.0.1:{inference}",
            "recovery": installation.recovery,
        },
        account=Account("", os.geteuid(), os.getegid()),
    )


def _ready(facts):
    ready = Path(facts["folder"]) / ".falaj" / "run"
    if not all((ready / f"{name}.ready").exists() for name in ("control", "inference-1", "worker")):
        return False
    try:
        with client(facts["control"], ready.parent / "tls" / "ca.pem") as web:
            return web.get("/healthz").is_success
    except httpx.TransportError:
        return False


def _installation(facts):
    return Installation(
        Path(facts["folder"]),
        recovery=list(facts["recovery"]),
        control=facts["control"],
        inference=facts["inference"],
    )


def _tell(facts, story):
    installation = _installation(facts)
    with installation.near(stepped_up=True) as owner:
        invited = {
            "bilal": owner.accounts.invite("bilal", story.ENGINEER),
            "salma": owner.accounts.invite("salma", ["approver", "auditor"]),
        }
        secret = owner.accounts.create_service("scorer").secret.get_secret_value()
    people = {
        name: installation.enrolled(name, link.secret.get_secret_value())
        for name, link in invited.items()
    }
    told = story.told(installation, people["bilal"], people["salma"])
    return {
        "told": told,
        "recovery": installation.recovery,
        "service": {"name": "scorer", "secret": secret},
        "people": {name: asdict(person) for name, person in people.items()},
    }


def _running(facts, kept):
    people = {
        name: Person(**{**values, "ca": Path(values["ca"])})
        for name, values in kept["people"].items()
    }
    installation = _installation({**facts, "recovery": kept["recovery"]})
    return Running(installation, people["bilal"], people["salma"], kept["service"], kept["told"])


@pytest.fixture(scope="module")
def mint(running):
    """Issues tokens with the platform's own keyring, at any time."""
    premises = assemble(running.installation.settings, process="test")

    def minted(*, at=timedelta(0), name="bilal", roles=("ml_engineer",), factor=True):
        now = datetime.now(UTC) + at
        with premises.database.reading() as connection:
            account = premises.authentication.accounts.get(connection, name)
        token, _ = premises.tokens.issue(
            Principal(f"user:{name}", PrincipalKind.USER, roles),
            session="session_of_a_test",
            account_epoch=account.epoch,
            mfa_at=now if factor else None,
            now=now,
        )
        return token

    yield minted
    premises.close()


@pytest.fixture
def installed(tmp_path, story):
    """An installation of a test's own, with data, not running; stopped at the end."""
    made = Installation(tmp_path / "project")
    made.init()
    story.write_data(made.folder, n=600)
    yield made
    made.stop()


@dataclass
class Told:
    """How a command ended."""

    code: int
    out: str
    err: str

    def refused(self, *words):
        """Fails the test unless it was one clear error with a way out."""
        assert self.code == 1, self.out + self.err
        assert "Traceback" not in self.err + self.out
        assert self.err.startswith("error "), self.err
        assert "\n→ " in self.err, f"no hint: {self.err}"
        for word in words:
            assert word in self.err
        return self


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs ``falaj`` in this process."""

    def run(folder, *arguments):
        monkeypatch.setattr(sys, "argv", ["falaj", "--folder", str(folder), *arguments])
        capsys.readouterr()  # what others wrote before is not this command's
        monkeypatch.setenv("COLUMNS", "300")
        with pytest.raises(SystemExit) as ended:
            main()
        told = capsys.readouterr()
        return Told(int(ended.value.code or 0), told.out, told.err)

    return run
