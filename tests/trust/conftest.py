"""A small platform's trust: real keys, a real database, a clock that is moved by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyotp
import pytest
from pydantic import SecretStr

from falaj.kernel.clock import SetClock
from falaj.kernel.database import Database
from falaj.kernel.ports import AuditEntry
from falaj.testing.fakes import MemoryAudit
from falaj.trust.adapters.keys_file import FileKeyring, MachineSeal
from falaj.trust.authentication import Authentication
from falaj.trust.epochs import Epochs
from falaj.trust.factors import Factors
from falaj.trust.model import (
    Confirmed,
    ConfirmRequest,
    EnrolRequest,
    LoginRequest,
    Role,
    TokenPair,
)
from falaj.trust.passwords import Passwords
from falaj.trust.ports import KeyService
from falaj.trust.tokens import Tokens

START = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
PASSWORD = "seven camels cross the wadi"
ISSUER = "https://falaj.test"


@dataclass
class Person:
    """Somebody with an authenticator."""

    name: str
    totp: pyotp.TOTP
    recovery: tuple[str, ...]
    tokens: TokenPair


class Trust:
    """Everything wired as the platform wires it, with cheap argon2 parameters."""

    def __init__(self, database: Database, keys: KeyService) -> None:
        self.database = database
        self.keys = keys
        self.clock = SetClock(START)
        self.audit = MemoryAudit()
        self.tokens = self.new_process()
        self.authentication = Authentication(
            database,
            self.audit,
            clock=self.clock,
            tokens=self.tokens,
            factors=Factors(keys),
            passwords=Passwords(time_cost=1, memory_kib=64, lanes=1),
        )
        self.accounts = self.authentication.accounts
        self.sessions = self.authentication.sessions

    def new_process(self) -> Tokens:
        """Tokens as another process of the same platform verifies them."""
        return Tokens(self.keys, Epochs(self.database), issuer=ISSUER)

    @property
    def now(self) -> datetime:
        return self.clock.now()

    def wait(self, **duration: float) -> None:
        self.clock.move(timedelta(**duration))

    def first_link(self) -> str | None:
        with self.database.transaction() as connection:
            link = self.authentication.first_administrator(connection, self.now)
        return link.secret.get_secret_value() if link else None

    def invited(self, name: str, *roles: Role) -> str:
        with self.database.transaction() as connection:
            link = self.authentication.enrolment.invite(
                connection,
                name=name,
                roles=roles or (Role.VIEWER,),
                created_by="user:root",
                now=self.now,
            )
        return link.secret.get_secret_value()

    def enrolled(self, link: str, name: str, address: str | None = None) -> Person:
        """Take a link through to an active account, as an honest person does."""
        offer = self.authentication.enrol(
            EnrolRequest(secret=SecretStr(link), name=name, password=SecretStr(PASSWORD)),
            address=address,
        )
        totp = pyotp.TOTP(offer.totp_secret.get_secret_value())
        done: Confirmed = self.authentication.confirm(
            ConfirmRequest(ticket=offer.ticket, code=SecretStr(totp.at(self.now)))
        )
        assert done.tokens is not None
        codes = tuple(code.get_secret_value() for code in done.recovery.codes)
        self.wait(seconds=30)  # the code of this step is used up
        return Person(name, totp, codes, done.tokens)

    def person(self, name: str, *roles: Role) -> Person:
        return self.enrolled(self.invited(name, *roles), name)

    def login(
        self,
        name: str,
        code: str,
        *,
        password: str = PASSWORD,
        address: str | None = None,
    ) -> TokenPair:
        return self.authentication.login(
            LoginRequest(name=name, password=SecretStr(password), code=SecretStr(code)),
            address=address,
        )

    def last_record(self) -> AuditEntry:
        return self.audit.entries[-1]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyService:
    folder = tmp_path_factory.mktemp("keys")
    seal = MachineSeal.create(folder / "machine")
    return FileKeyring.create(folder / "keyring", seal, clock=SetClock(START))


@pytest.fixture
def trust(database: Database, keys: KeyService) -> Trust:
    return Trust(database, keys)


@pytest.fixture
def access() -> Callable[[TokenPair], str]:
    return lambda pair: pair.access_token.get_secret_value()
