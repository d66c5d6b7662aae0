"""A factor asked for in place: by the SDK, by the command line, through a browser."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, update
from starlette.testclient import TestClient

import falaj
from falaj.interfaces.client import RemoteDoor
from falaj.interfaces.credentials import CredentialFile, RenewedTokens
from falaj.interfaces.devicelogin import DeviceLink, tokens_through_browser
from falaj.interfaces.platform import Platform, ask_for_code
from falaj.interfaces.processes import control_app
from falaj.interfaces.session import Session
from falaj.kernel.errors import InvalidInput, StepUpRequired
from falaj.kernel.settings import Settings
from falaj.testing.authenticators import Authenticator
from falaj.testing.browsers import Browser
from falaj.trust.devices import AccessDenied, ExpiredCode
from falaj.trust.model import Role
from falaj.trust.passkey_tables import device_codes
from falaj.trust.tables import sessions
from falaj.wiring.assembly import Premises, assemble
from falaj.wiring.setup import initialise

ORIGIN = "https://localhost:8443"


class Home:
    """A server in this process, with one operator who has a passkey only."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.codes = list(initialise(Settings.read(folder), owner="owner").recovery_codes)
        self.premises: Premises = assemble(Settings.read(folder))
        self.app = control_app(self.premises)
        self.client = TestClient(self.app, base_url=ORIGIN)
        self.browser, self.device = (
            Browser(TestClient(self.app, base_url=ORIGIN)),
            Authenticator(ORIGIN),
        )
        with self.premises.database.transaction() as connection:
            link = self.premises.authentication.enrolment.invite(
                connection, name="maryam", roles=(Role.OPERATOR,), created_by="user:owner",
                now=self.premises.clock.now(),
            )  # fmt: skip
        secret = link.secret.get_secret_value()
        self.browser.passkey(self.device, "/enrol/passkey", "", secret=secret, name="maryam")

    def decides(self, decision: str = "approve") -> Callable[[DeviceLink], None]:
        """What maryam does with a link: she opens it, steps up with her passkey, decides."""

        def opened(link: DeviceLink) -> None:
            page = self.browser.open(link.address_with_code.removeprefix(ORIGIN))
            self.browser.passkey(self.device, "/step-up/passkey", "/step-up")
            shown = self.browser.send(page, "/device", user_code=link.user_code)
            answer = self.browser.send(shown, "/device/decision", decision=decision)
            assert answer.status_code == 200, answer.text

        return opened

    def tired(self) -> None:
        """Nobody has presented a factor for a while."""
        with self.premises.database.transaction() as connection:
            connection.execute(update(sessions).values(mfa_at=None))

    def tokens(self) -> dict[str, Any]:
        """Tokens of maryam's command line, without a fresh factor."""
        found = tokens_through_browser(
            self.client, self.decides(), named="a test", sleep=lambda _seconds: None
        )
        self.tired()
        source = RenewedTokens(self.client, {**found, "expires_at": "2020-01-01T00:00:00+00:00"})
        source()
        return source._tokens

    def platform(self, on_step_up: Any = None) -> Platform:
        """The server as maryam's program reaches it."""
        source = RenewedTokens(self.client, self.tokens())
        return Platform(
            RemoteDoor(self.client, source), step_up=lambda door, _code: door,
            close=lambda: None, through_browser=source.step_up_through_browser,
            on_step_up=on_step_up,
        )  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("home"))
    yield made
    made.premises.close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, home: Home) -> None:
    with home.premises.database.transaction() as connection:
        connection.execute(delete(device_codes))
    monkeypatch.setattr("falaj.interfaces.devicelogin.time.sleep", lambda _seconds: None)
    monkeypatch.setitem(tokens_through_browser.__kwdefaults__, "sleep", lambda _seconds: None)


def test_a_program_that_is_let_in_may_act(home: Home) -> None:
    assert home.platform().accounts.me().principal == "user:maryam"


def test_without_a_callback_an_action_asks_for_a_factor_by_its_error(home: Home) -> None:
    with pytest.raises(StepUpRequired):
        home.platform().keys.rotate("wrapping")


def test_a_callback_presents_a_factor_and_the_call_goes_on(home: Home) -> None:
    asked: list[StepUpRequired] = []

    def on_step_up(platform: Platform, required: StepUpRequired) -> None:
        asked.append(required)
        platform.step_up_in_browser(home.decides())

    platform = home.platform(on_step_up)
    assert platform.keys.rotate("wrapping").purpose == "wrapping"
    assert platform.keys.rotate("wrapping").version > 1
    assert len(asked) == 1


def test_a_callback_that_gives_up_ends_the_call(home: Home) -> None:
    def on_step_up(_platform: Platform, required: StepUpRequired) -> None:
        raise required

    with pytest.raises(StepUpRequired):
        home.platform(on_step_up).keys.rotate("wrapping")


def test_a_callback_that_presents_nothing_is_asked_once(home: Home) -> None:
    asked: list[int] = []
    with pytest.raises(StepUpRequired):
        home.platform(lambda *_: asked.append(1)).keys.rotate("wrapping")
    assert asked == [1]


def test_a_refused_request_says_so(home: Home) -> None:
    with pytest.raises(AccessDenied):
        tokens_through_browser(home.client, home.decides("deny"), named="a test")


def test_a_request_that_nobody_decides_ends(home: Home) -> None:
    times = iter(range(0, 10_000, 300))
    with pytest.raises(ExpiredCode):
        tokens_through_browser(
            home.client, lambda _link: None, named="a test", monotonic=lambda: float(next(times))
        )


def test_a_program_that_is_told_to_slow_down_does(home: Home) -> None:
    slept: list[float] = []
    times = iter(range(0, 10_000, 100))
    with pytest.raises(ExpiredCode):
        tokens_through_browser(
            home.client, lambda _link: None, named="a test", sleep=slept.append,
            monotonic=lambda: float(next(times)),
        )  # fmt: skip
    assert slept[:4] == [5.0, 5.0, 10.0, 15.0]


def test_near_an_owner_is_asked_for_a_code(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getpass", lambda _question: home.codes.pop())
    with falaj.open(home.folder, on_step_up=falaj.ask_for_code) as platform:
        assert platform.keys.rotate("wrapping").purpose == "wrapping"
    with falaj.open(home.folder) as platform, pytest.raises(InvalidInput, match="on a server"):
        platform.step_up_in_browser()


def test_a_question_without_an_answer_leads_to_the_browser(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("getpass.getpass", lambda _question: "")
    platform = home.platform(ask_for_code)
    monkeypatch.setattr(
        Platform, "step_up_in_browser",
        lambda self, _show=None: self._through_browser(home.decides()),
    )  # fmt: skip
    assert platform.keys.rotate("wrapping").purpose == "wrapping"


def session(home: Home) -> Session:
    return Session(folder=home.folder, url=ORIGIN, ca=None, as_json=True, code=None, purpose=None)


def test_the_command_line_goes_on_after_a_passkey_in_the_browser(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = session(home)
    made.__dict__["platform"] = home.platform(made._step_up)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("getpass.getpass", lambda _question: " ")
    shown = made._show_link

    def show(link: DeviceLink) -> None:
        shown(link)
        home.decides()(link)

    monkeypatch.setattr(made, "_show_link", show)
    (rotate,) = (a for a in home.premises.backend.services.actions.values()
                 if a.name == "keys.rotate")  # fmt: skip
    assert made.call(rotate, {"purpose": "wrapping"}).purpose == "wrapping"
    told = capsys.readouterr()
    assert f"Open {ORIGIN}/device in a browser" in told.err
    assert told.out == ""


def test_a_command_without_anybody_at_its_terminal_asks_nobody(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = session(home)
    made.__dict__["platform"] = home.platform(made._step_up)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    with pytest.raises(StepUpRequired):
        made.platform.keys.rotate("wrapping")


def test_the_command_line_is_logged_in_by_a_browser(
    home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FALAJ_CREDENTIALS", str(tmp_path / "credentials.json"))
    monkeypatch.setattr("httpx.Client", lambda **_given: TestClient(home.app, base_url=ORIGIN))
    made = session(home)
    monkeypatch.setattr(made, "_show_link", home.decides())
    made.login_by_device()
    kept = CredentialFile(tmp_path / "credentials.json").get(ORIGIN)
    assert kept is not None
    assert kept["refresh_token"]
    assert (tmp_path / "credentials.json").stat().st_mode & 0o077 == 0
