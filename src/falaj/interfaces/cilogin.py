"""``falaj login --ci``: a CI job's own token becomes one of the platform, for one command.

The token stands in the environment of that command and nowhere else: on no disk, in no file of
credentials. GitHub Actions gives a new token of its own with each request; GitLab CI gives the
job one, in a variable, which is good for one exchange.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from falaj.interfaces.client import sent
from falaj.kernel.errors import InvalidInput, Unauthenticated, Unavailable
from falaj.kernel.problems import RemoteError
from falaj.trust.ci_exchange import GRANT, TOKEN_TYPES

if TYPE_CHECKING:
    import httpx

TOKEN = "FALAJ_TOKEN"  # noqa: S105 - the name of a variable
_GITHUB_URL, _GITHUB_TOKEN = "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"
_GITLAB = "FALAJ_ID_TOKEN"


def job_token(audience: str, surroundings: Mapping[str, str], client: httpx.Client) -> str:
    """The token that the CI system gives this job.

    Args:
        audience: whom the token is for, where the job may choose (GitHub Actions).
        surroundings: the job's environment variables.
        client: asks GitHub Actions, if that is where the job runs.

    Raises:
        Unauthenticated: there is none; says what the job lacks.
        Unavailable: GitHub Actions does not give one.
    """
    given = surroundings.get(_GITLAB)
    if given:
        return given
    address = surroundings.get(_GITHUB_URL)
    if not address:
        raise Unauthenticated(
            "This job has no token of its own.",
            hint="GitHub Actions: `permissions: id-token: write`. GitLab CI: "
            "`id_tokens: FALAJ_ID_TOKEN: aud: …`.",
        )
    if not address.startswith("https://"):
        raise InvalidInput(f"The variable {_GITHUB_URL} does not begin with https://.")
    joint = "&" if "?" in address else "?"
    request = client.build_request(
        "GET",
        f"{address}{joint}audience={quote(audience, safe='')}",
        headers={"Authorization": f"Bearer {surroundings.get(_GITHUB_TOKEN, '')}"},
    )
    try:
        found = sent(client, request).json().get("value")
    except RemoteError as error:
        raise Unavailable(f"GitHub Actions gives this job no token: {error.message}") from error
    if not isinstance(found, str):
        raise Unavailable("GitHub Actions answers without a token.")
    return found


def exchanged(client: httpx.Client, token: str, *, account: str | None = None) -> dict[str, Any]:
    """The platform's token for a job's token; raises ExchangeRefused.

    Args:
        client: of the platform.
        account: the service account to become, where several rules fit.
    """
    form = {"grant_type": GRANT, "subject_token": token, "subject_token_type": TOKEN_TYPES[0]}
    if account:
        form["account"] = account
    answer = sent(client, client.build_request("POST", "/auth/exchange", data=form)).json()
    return dict(answer)


def run_with(token: str, url: str, ca: str | None, command: Sequence[str]) -> int:
    """Run a command that is let in by a token, and wait for it; its exit code.

    Raises:
        InvalidInput: there is no such command.
    """
    variables = {**os.environ, TOKEN: token, "FALAJ_URL": url}
    if ca is not None:
        variables["FALAJ_CA"] = ca
    for name in (_GITHUB_URL, _GITHUB_TOKEN, _GITLAB):
        variables.pop(name, None)  # the command needs no other token of the job
    try:
        return subprocess.run(list(command), env=variables, check=False).returncode
    except OSError as error:
        raise InvalidInput(f"{command[0]!r} cannot be run: {error.strerror}.") from None
