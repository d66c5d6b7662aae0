"""The quickstart is executed as it stands, in an empty folder, by real processes."""

from __future__ import annotations

import re
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pyotp
import pytest

from falaj.testing.pages import Block, blocks, squeezed
from falaj.testing.programs import program_environment

SECRET = re.compile(r"^\s+([A-Z2-7]{32})$", re.MULTILINE)
RECOVERY = re.compile(r"\b(?:[a-z2-7]{4}-){3}[a-z2-7]{4}\b")
DOCS = Path(__file__).parents[2] / "docs"
PATIENCE_SECONDS = 60.0
PASSWORD = "a long password of saif"


class Reader:
    """Does what the page says, block by block.

    The ports of the page are replaced by free ones, and ``123456`` by a code that the
    authenticator of the named person shows; where the next one would have to be waited for,
    by a recovery code.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "deliveries"
        self.folder.mkdir()
        self._state = folder / "state.sh"
        self._ports = {"8443": str(_free_port()), "8444": str(_free_port())}
        self._secrets: dict[str, str] = {}
        self._used: dict[str, int] = {}
        self._recovery: dict[str, list[str]] = {}
        self._running: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **program_environment(folder),
            "FALAJ_HTTP__PORT": self._ports["8443"],
            "FALAJ_INFERENCE__PORT": self._ports["8444"],
            "COLUMNS": "100",
        }

    def do(self, block: Block) -> str:
        """Carry a block out; returns what it printed."""
        text = self._with_ports(block.text)
        if block.mark == "file":
            (self.folder / block.value).write_text(text, encoding="utf-8")
            return ""
        if block.mark == "background":
            return self._in_background(text, block.value)
        if block.mark == "answers":
            return self._answering(text, block.value)
        if block.mark == "until":
            return self._until(text, block.value)
        if block.mark == "code":
            text = text.replace("123456", self._code(block.value))
        printed = self._bash(text)
        init = re.search(r"falaj init --owner (\w+)", text)
        if init is not None:
            self._remember(init[1], printed, used=int(time.time()) // 30)
        return printed

    def stated(self, block: Block) -> list[str]:
        """The fragments of output that a text block states."""
        return [squeezed(line) for line in self._with_ports(block.text).splitlines() if line]

    def close(self) -> None:
        """Stop what runs in the background, as Ctrl-C would."""
        for process in self._running:
            process.send_signal(signal.SIGINT)
        for process in self._running:
            process.wait(20)

    def _with_ports(self, text: str) -> str:
        for stated, free in self._ports.items():
            text = text.replace(stated, free)
        return text

    def _script(self, text: str) -> list[str]:
        state = shlex.quote(str(self._state))
        return [
            "bash",
            "-euo",
            "pipefail",
            "-c",
            f"touch {state}; . {state}\n{text}\nexport -p > {state}",
        ]

    def _bash(self, text: str, *, check: bool = True) -> str:
        done = subprocess.run(
            self._script(text),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_SECONDS * 2,
        )
        assert done.returncode == 0 or not check, f"{text}\n{done.stdout}"
        return done.stdout

    def _until(self, text: str, fragment: str) -> str:
        patience = time.monotonic() + PATIENCE_SECONDS
        while True:
            printed = self._bash(text, check=False)
            if fragment in squeezed(printed) or time.monotonic() > patience:
                return printed
            time.sleep(0.5)

    def _in_background(self, text: str, fragment: str) -> str:
        log = self._state.with_suffix(".log")
        with log.open("wb") as out:
            process = subprocess.Popen(
                self._script(f"exec {text}"),
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self._running.append(process)
        patience = time.monotonic() + PATIENCE_SECONDS
        while fragment not in log.read_text(encoding="utf-8"):
            assert process.poll() is None and time.monotonic() < patience, log.read_text()
            time.sleep(0.05)
        time.sleep(0.2)
        return log.read_text(encoding="utf-8")

    def _answering(self, text: str, person: str) -> str:
        process = subprocess.Popen(
            self._script(text),
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(PASSWORD + "\n")
        process.stdin.flush()
        printed = ""
        while SECRET.search(printed) is None:
            line = process.stdout.readline()
            assert line, printed
            printed += line
        self._remember(person, printed, used=0)
        process.stdin.write(self._code(person) + "\n")
        process.stdin.close()
        printed += process.stdout.read()
        assert process.wait(PATIENCE_SECONDS) == 0, printed
        return printed

    def _remember(self, person: str, printed: str, *, used: int) -> None:
        found = SECRET.search(printed)
        assert found is not None, printed
        self._secrets[person] = found[1]
        self._used[person] = used
        self._recovery[person] = RECOVERY.findall(printed)

    def _code(self, person: str) -> str:
        """The next code that was not used; the platform takes one step before its time."""
        step = max(self._used[person] + 1, int(time.time()) // 30)
        if (step - 1) * 30 > time.time():
            return self._recovery[person].pop()
        self._used[person] = step
        return pyotp.TOTP(self._secrets[person]).generate_otp(step)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    made = Reader(tmp_path)
    yield made
    made.close()


def test_the_quickstart_does_what_it_says(reader: Reader) -> None:
    printed = ""
    for block in blocks(DOCS / "quickstart.md"):
        if block.language == "text":
            for fragment in reader.stated(block):
                assert fragment in squeezed(printed), f"line {block.line}: {fragment}\n{printed}"
        elif block.mark != "not run":
            began = time.monotonic()
            printed = reader.do(block)
            print(f"line {block.line}: {time.monotonic() - began:.1f} s")
