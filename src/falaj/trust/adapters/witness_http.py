"""``HttpWitness``: tells each checkpoint to a server of somebody else's.

What the server does (``falaj.testing.witnesses.WitnessServer`` is one in a hundred lines):

- ``PUT {address}/{size}`` with a sighting as JSON: 201 when it is durable, 200 when the same
  one was kept before, 409 when a later one, or another one of that size, was;
- ``GET {address}/latest``: 200 with the greatest sighting ever kept, 404 before the first.
"""

from __future__ import annotations

import ssl
from pathlib import Path

import httpx

from falaj.kernel.errors import InvalidInput, Unavailable
from falaj.trust.ports import Sighting
from falaj.trust.sightings import LONGEST, line, put_back
from falaj.trust.sightings import sighting as sighting_of


class HttpWitness:
    """The ``Witness`` behind an address.

    Args:
        address: ``https://…``.
        token: what the server asks for, as a bearer token.
        ca_file: the certificate authority of the server, if not a public one.

    Goes to that address alone: no redirect, no proxy of the surroundings.
    """

    def __init__(
        self, address: str, *, token: str | None = None, ca_file: Path | None = None
    ) -> None:
        self._address = address.rstrip("/")
        try:
            context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)
        except (OSError, ssl.SSLError):
            raise InvalidInput(
                f"The setting audit.witness_ca_file = {ca_file} is no readable PEM file.",
                hint="Name the certificate authority of the witness's server.",
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._client = httpx.Client(
            verify=context,
            timeout=10,
            trust_env=False,
            follow_redirects=False,
            headers={"Authorization": f"Bearer {token}"} if token else {},
        )

    def keep(self, sighting: Sighting) -> None:
        """Tell it; returns when the server says that it is durable.

        Raises:
            Conflict: the server has seen a later checkpoint, or another one of this size.
            Unavailable: it does not answer, or refuses.
        """
        status, _ = self._asked(
            "PUT", str(sighting.size), line(sighting), {"Content-Type": "application/json"}
        )
        if status == 409:
            latest = self.latest()
            raise put_back(self._name, latest.size if latest else 0, sighting.size)
        if status not in (200, 201, 204):
            raise self._refused(status)

    def latest(self) -> Sighting | None:
        """The greatest that the server has ever kept."""
        status, body = self._asked("GET", "latest")
        if status == 404:
            return None
        if status != 200:
            raise self._refused(status)
        return sighting_of(body, holder=self._name[0].lower() + self._name[1:])

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    @property
    def _name(self) -> str:
        return f"The witness {self._address}"

    def _asked(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        try:
            with self._client.stream(
                method, f"{self._address}/{path}", content=body, headers=headers
            ) as answer:
                read = b""
                for part in answer.iter_bytes():
                    read += part
                    if len(read) > LONGEST:
                        raise self._refused(answer.status_code)
                return answer.status_code, read
        except httpx.HTTPError as error:
            raise Unavailable(
                f"{self._name} does not answer: {type(error).__name__}.",
                hint="See its address, its certificate and the network.",
            ) from error

    def _refused(self, status: int) -> Unavailable:
        return Unavailable(
            f"{self._name} answered {status}, which is no answer of a witness.",
            hint="See the settings audit.witness and audit.witness_token.",
        )
