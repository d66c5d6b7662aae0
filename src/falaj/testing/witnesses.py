"""What every witness must do, as a suite for its adapters, and a server to test one against."""
# ruff: noqa: S101 - this module is a test suite

from __future__ import annotations

import hmac
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from falaj.kernel.errors import Conflict, Corrupt
from falaj.trust.ports import Sighting, Signature, Witness
from falaj.trust.sightings import line, sighting

Again = Callable[[], Witness]


def a_sighting(size: int, *, note: str = "") -> Sighting:
    """A sighting of a made-up checkpoint."""
    return Sighting(size, f'["{note}",{size}]'.encode(), Signature("k1", "ed25519", b"s" * 64))


class WitnessSuite:
    """Fixtures: ``witness`` (the adapter) and ``again`` (the same place, opened anew)."""

    def test_a_new_witness_has_seen_nothing(self, witness: Witness) -> None:
        """And says so."""
        assert witness.latest() is None

    def test_the_greatest_sighting_is_remembered_over_restarts(
        self, witness: Witness, again: Again
    ) -> None:
        """Whatever came before it."""
        for size in (3, 20, 100, 1000):
            witness.keep(a_sighting(size))
        assert witness.latest() == again().latest() == a_sighting(1000)

    def test_keeping_the_same_sighting_again_does_nothing(
        self, witness: Witness, again: Again
    ) -> None:
        """As a worker does that was killed before it knew."""
        witness.keep(a_sighting(20))
        witness.keep(a_sighting(20))
        again().keep(a_sighting(20))
        assert witness.latest() == a_sighting(20)

    def test_an_older_checkpoint_is_refused(self, witness: Witness, again: Again) -> None:
        """The log was put back: the witness is not led to the other history."""
        witness.keep(a_sighting(20))
        for teller in (witness, again()):
            with pytest.raises(Conflict, match="20"):
                teller.keep(a_sighting(10))
        assert witness.latest() == a_sighting(20)

    def test_another_checkpoint_of_the_same_size_is_refused(
        self, witness: Witness, again: Again
    ) -> None:
        """The log was rewritten."""
        witness.keep(a_sighting(20))
        with pytest.raises(Conflict, match="20"):
            again().keep(a_sighting(20, note="rewritten"))
        assert witness.latest() == a_sighting(20)


class WitnessServer:
    """A witness's server on a free port of 127.0.0.1, which remembers in memory.

    Args:
        token: what it asks for.
    """

    def __init__(self, token: str) -> None:
        self.token = token
        self.kept: dict[int, Sighting] = {}
        self.redirect_to: str | None = None
        """Set it, and each answer leads there."""
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                server._put(self)

            def do_GET(self) -> None:
                server._get(self)

            def log_message(self, format: str, *args: Any) -> None: ...

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._http.server_port}/audit"
        self._thread = threading.Thread(target=self._http.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the server."""
        self._http.shutdown()
        self._http.server_close()

    def _admitted(self, asked: BaseHTTPRequestHandler) -> bool:
        if self.redirect_to is not None:
            asked.send_response(307)
            asked.send_header("Location", self.redirect_to)
            asked.send_header("Content-Length", "0")
            asked.end_headers()
            return False
        given = asked.headers.get("Authorization", "")
        if hmac.compare_digest(given, f"Bearer {self.token}"):
            return True
        _answer(asked, 401)
        return False

    def _put(self, asked: BaseHTTPRequestHandler) -> None:
        body = asked.rfile.read(int(asked.headers.get("Content-Length", "0")))
        if not self._admitted(asked):
            return
        try:
            told = sighting(body, holder="the request")
        except Corrupt:
            _answer(asked, 400)
            return
        with self._lock:
            greatest = max(self.kept, default=0)
            if self.kept.get(told.size) == told:
                _answer(asked, 200)
            elif told.size <= greatest:
                _answer(asked, 409)
            else:
                self.kept[told.size] = told
                _answer(asked, 201)

    def _get(self, asked: BaseHTTPRequestHandler) -> None:
        if not self._admitted(asked):
            return
        with self._lock:
            greatest = max(self.kept, default=None)
        if greatest is None:
            _answer(asked, 404)
        else:
            _answer(asked, 200, line(self.kept[greatest]))


def _answer(asked: BaseHTTPRequestHandler, status: int, body: bytes = b"") -> None:
    asked.send_response(status)
    asked.send_header("Content-Length", str(len(body)))
    asked.end_headers()
    asked.wfile.write(body)
