"""One run of the command line: which platform, as whom, and how answers are shown."""

from __future__ import annotations

import getpass
import os
import sys
from functools import cached_property
from pathlib import Path
from platform import node as platform_name
from typing import TYPE_CHECKING, Any

from rich.console import Console

from falaj.kernel.errors import InvalidInput, StepUpRequired

if TYPE_CHECKING:
    import httpx

    from falaj.interfaces.devicelogin import DeviceLink
    from falaj.interfaces.platform import Platform
    from falaj.kernel.actions import Action
    from falaj.kernel.jobs import Job


class Session:
    """What the options before the command chose."""

    def __init__(
        self,
        *,
        folder: Path,
        url: str | None,
        ca: Path | None,
        as_json: bool,
        code: str | None,
        purpose: str | None,
        only: str | None = None,
    ) -> None:
        self.folder = folder
        self.url = url.rstrip("/") if url else None
        self.ca = ca
        self.as_json = as_json
        self.code = code
        self.purpose = purpose
        self.only = only
        self.console = Console()

    @cached_property
    def platform(self) -> Platform:
        """The platform, opened at first use: the folder's, or the server's."""
        from falaj.interfaces.platform import connect, open_platform

        if self.url is not None:
            opened = connect(
                self.url,
                token=os.environ.get("FALAJ_TOKEN"),
                service=os.environ.get("FALAJ_SERVICE"),
                secret=os.environ.get("FALAJ_SERVICE_SECRET"),
                ca=self.ca,
                purpose=self.purpose,
                on_step_up=self._step_up,
            )
        else:
            opened = open_platform(self.folder, purpose=self.purpose, on_step_up=self._step_up)
        if self.code is not None:
            opened.step_up(self.code)
        return opened

    def close(self) -> None:
        """Give the platform's files and connections back, if it was opened."""
        opened = self.__dict__.get("platform")
        if opened is not None:
            opened.close()

    def call(self, action: Action, arguments: dict[str, Any]) -> Any:
        """Call an action; asks for a one-time code if it needs one and somebody is there."""
        return self.platform.door.call(action, arguments)

    def _step_up(self, platform: Platform, required: StepUpRequired) -> None:
        """Ask for a factor, if somebody is there: a code, or on a server a passkey."""
        if self.code is not None or not sys.stdin.isatty():
            raise required
        if self.url is None:
            platform.step_up(getpass.getpass("One-time code: "))
            return
        code = getpass.getpass("One-time code (empty: another factor, in your browser): ")
        if code.strip():
            platform.step_up(code)
        else:
            platform.step_up_in_browser(self._show_link)

    def _show_link(self, link: DeviceLink) -> None:
        """Show on standard error where to go: standard output is for answers."""
        told = Console(stderr=True)
        told.print(f"{link}", soft_wrap=True, highlight=False)
        told.print(f"Or at once: {link.address_with_code}", soft_wrap=True, highlight=False)

    def show(self, result: Any) -> None:
        """Print a result as the options ask."""
        from falaj.interfaces.printing import show, show_only

        if self.only is not None:
            show_only(self.console, result, self.only)
        else:
            show(self.console, result, as_json=self.as_json)

    def wait(self, job: Job | str) -> Job:
        """Follow a job; a terminal shows a progress bar, which is no part of the output."""
        from rich.progress import Progress

        bars = Console(stderr=True)
        with Progress(console=bars, transient=True, disable=not bars.is_terminal) as progress:
            task = progress.add_task("waiting", total=1.0)

            def shown(seen: Job) -> None:
                told = f"{seen.kind} {seen.message}".strip()
                progress.update(task, completed=seen.progress, description=told)

            return self.platform.wait(job, on_progress=shown)

    def enrol(self, name: str, secret: str | None) -> None:
        """Take up an invitation, and stay logged in; the page ``/enrol`` does the same."""
        import httpx

        from falaj.interfaces.client import sent
        from falaj.interfaces.credentials import CredentialFile, default_file
        from falaj.interfaces.platform import trusted

        url = self._server()
        wanted = {"secret": secret or _asked("Secret of your invitation: "), "name": name}
        wanted["password"] = _asked("New password: ")
        if sys.stdin.isatty() and _asked("Again: ") != wanted["password"]:
            raise InvalidInput("The two passwords differ.", hint="Run the command again.")
        with httpx.Client(base_url=url, verify=trusted(url, self.ca)) as client:
            request = client.build_request("POST", "/auth/enrol", json=wanted)
            offer = sent(client, request).json()
            self.console.print("Your second factor: enter this in an authenticator.")
            self.console.print(f"  {offer['totp_secret']}", soft_wrap=True, highlight=False)
            code = _asked("One-time code: ")
            confirm = {"ticket": offer["ticket"], "code": code}
            request = client.build_request("POST", "/auth/confirm", json=confirm)
            confirmed = sent(client, request).json()
        self.console.print("Recovery codes, each good once; they are not shown again:")
        for recovery in confirmed["recovery"]["codes"]:
            self.console.print(f"  {recovery}", highlight=False)
        CredentialFile(default_file()).put(url, confirmed["tokens"])
        self.console.print(f"Enrolled at {url} as {name}, and logged in.")

    def login(self, name: str, *, bind: bool = False) -> None:
        """Ask for password and code, and keep the server's tokens; with ``bind`` and a key."""
        import httpx

        from falaj.interfaces.client import sent
        from falaj.interfaces.credentials import CredentialFile, default_file
        from falaj.interfaces.platform import trusted

        url = self._server()
        wanted = {
            "name": name,
            "password": _asked("Password: "),
            "code": self.code or _asked("One-time code: "),
            "client": "falaj command line",
        }
        with httpx.Client(base_url=url, verify=trusted(url, self.ca)) as client:
            if bind:
                client.auth = _new_key(url)
            answer = sent(client, client.build_request("POST", "/auth/login", json=wanted))
        CredentialFile(default_file()).put(url, answer.json())
        self.console.print(f"Logged in to {url} as {name}.")

    def login_by_device(self, provider: str = "", *, bind: bool = False) -> None:
        """Be let in by a person in a browser, and keep the server's tokens.

        ``provider`` is the identity provider through which they sign in; empty: as they like.
        """
        import httpx

        from falaj.interfaces.credentials import CredentialFile, default_file
        from falaj.interfaces.devicelogin import tokens_through_browser
        from falaj.interfaces.platform import trusted

        url = self._server()
        named = f"falaj command line on {platform_name()}"[:100]
        with httpx.Client(base_url=url, verify=trusted(url, self.ca)) as client:
            if bind:
                client.auth = _new_key(url)
            tokens = tokens_through_browser(client, self._show_link, named=named, provider=provider)
        CredentialFile(default_file()).put(url, tokens)
        self.console.print(f"Logged in to {url}.")

    def login_by_job(self, name: str | None, command: list[str]) -> int:
        """Be let in by this CI job's own token, and run a command with it; its exit code."""
        import httpx

        from falaj.interfaces.cilogin import exchanged, job_token, run_with
        from falaj.interfaces.platform import trusted

        url = self._server()
        with httpx.Client(timeout=30, follow_redirects=False) as outside:
            token = job_token(url, os.environ, outside)
        with httpx.Client(base_url=url, verify=trusted(url, self.ca), timeout=60) as client:
            answer = exchanged(client, token, account=name)
        told = Console(stderr=True)
        until = f"{answer['account']} until {answer['expires_at']}"
        told.print(f"This job is service:{until}.", highlight=False)
        if not command:
            return 0
        ca = str(self.ca.resolve()) if self.ca else None
        return run_with(answer["access_token"], url, ca, command)

    def logout(self) -> None:
        """End the session on the server and forget its tokens."""
        import httpx

        from falaj.interfaces.client import sent
        from falaj.interfaces.credentials import CredentialFile, RenewedTokens, default_file
        from falaj.interfaces.platform import trusted

        url = self._server()
        file = CredentialFile(default_file())
        kept = file.get(url)
        if kept is None:
            self.console.print(f"There are no credentials for {url}.")
            return
        with httpx.Client(base_url=url, verify=trusted(url, self.ca)) as client:
            signed = file.signing(url)
            if signed is not None:
                client.auth = signed
            token = RenewedTokens(client, kept)()
            headers = {"Authorization": f"Bearer {token}"}
            sent(client, client.build_request("POST", "/auth/logout", headers=headers))
        file.put(url, None)
        file.key_file(url).unlink(missing_ok=True)
        self.console.print(f"Logged out of {url}.")

    def _server(self) -> str:
        if self.url is None:
            raise InvalidInput(
                "Logging in needs a server.",
                hint="Name it: `falaj --url https://… login`. A folder's platform needs no login.",
            )
        return self.url


def _new_key(url: str) -> httpx.Auth:
    """Signs requests by a fresh key, which is kept beside the credentials of a server."""
    from falaj.interfaces.credentials import CredentialFile, default_file
    from falaj.interfaces.signedrequests import SignedRequests, SigningKey

    key = SigningKey.new()
    key.save(CredentialFile(default_file()).key_file(url))
    return SignedRequests(key)


def _asked(question: str) -> str:
    """A secret from the terminal, or a line of standard input when it is not one."""
    if sys.stdin.isatty():
        return getpass.getpass(question)
    return sys.stdin.readline().rstrip("\n")
