"""A throw-away token of SoftHSM2, the hardware module in software from Debian."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from falaj.testing.guarded import ServerUnavailable

_MODULES = (
    Path("/usr/lib/softhsm/libsofthsm2.so"),
    Path("/usr/lib64/pkcs11/libsofthsm2.so"),
    Path("/usr/local/lib/softhsm/libsofthsm2.so"),
)


@dataclass(frozen=True)
class Token:
    """A token of SoftHSM2."""

    module: Path
    label: str
    pin: str

    def url(self, prefix: str) -> str:
        """What the setting ``keys`` says."""
        return f"pkcs11:{self.module}?token={quote(self.label)}&prefix={prefix}"


def made_token(folder: Path) -> Token:
    """A new token in a folder.

    The module is loaded once in a process and reads ``SOFTHSM2_CONF`` then: make one token
    for all tests of a process, and let each take a prefix of its own.

    Raises:
        ServerUnavailable: SoftHSM2 is not installed here.
    """
    program = shutil.which("softhsm2-util")
    module = next((path for path in _MODULES if path.exists()), None)
    if program is None or module is None:
        raise ServerUnavailable("SoftHSM2 is not installed (apt-get install softhsm2)")
    tokens = folder / "tokens"
    tokens.mkdir(parents=True)
    config = folder / "softhsm2.conf"
    config.write_text(f"directories.tokendir = {tokens}\nlog.level = ERROR\n", encoding="utf-8")
    os.environ["SOFTHSM2_CONF"] = str(config)
    token = Token(module, "falaj-test", secrets.token_hex(8))
    subprocess.run(
        [program, "--init-token", "--free", "--label", token.label, "--pin", token.pin,
         "--so-pin", secrets.token_hex(8)],
        check=True, capture_output=True,
    )  # fmt: skip
    return token
