"""Features from afar, the fast way: the inference workers are asked, not the control plane.

``platform.features.read`` is an action: it goes through the door, with a transaction and an
audit record in the database for each call. A ``FeaturesClient`` asks the workers' data
plane, which checks the same token and the same policy, and records in ``feature_reads``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import httpx
import msgspec

from falaj.features.answers import Ack, Pushed
from falaj.features.purposes import PurposeRefused
from falaj.interfaces.client import sent
from falaj.interfaces.credentials import ServiceTokens
from falaj.interfaces.platform import certified, trusted
from falaj.kernel.errors import FalajError, InvalidInput
from falaj.serving.errors import BadRequest, BodyTooLarge, SlowClient, UnsupportedMedia

if TYPE_CHECKING:
    import pyarrow as pa

RAISED: tuple[type[FalajError], ...] = (
    BadRequest,
    BodyTooLarge,
    PurposeRefused,
    SlowClient,
    UnsupportedMedia,
)
"""What a worker may answer beside the kernel's errors; an answer becomes its own class again."""
_JSON, _ARROW = "application/json", "application/vnd.apache.arrow.stream"


class FeaturesClient:
    """Reads online features and pushes events, as one caller.

    Args:
        client: an HTTP client with the workers' base URL and trusted certificates.
        token: gives a valid access token (and renews it when it must).
        purpose: why data is asked for, where a view permits only some purposes.
        close: what else is to be closed with it.

    Safe from many threads. Every method raises the FalajError that the worker answered, and
    Unavailable if none answers.
    """

    def __init__(
        self,
        client: httpx.Client,
        token: Callable[[], str],
        *,
        purpose: str | None = None,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._close = close
        self._token = token
        self._purpose = purpose

    def read(
        self, service: str, rows: Sequence[Mapping[str, Any]], *, at: datetime | None = None
    ) -> list[dict[str, Any]]:
        """The vectors of a feature service, one for each row of keys and request fields.

        Args:
            service: the feature service.
            rows: at most 10,000; None is a key or field that is not known.
            at: the instant to answer for; now by default.

        Returns:
            for each row its features by column; None for null, timestamps in UTC microseconds.
        """
        body = {"rows": list(rows), **_instant(at)}
        answer = self._asked(_read_path(service), _encoded(body), _JSON)
        return list(msgspec.json.decode(answer.content)["rows"])

    def read_columns(
        self, service: str, columns: Mapping[str, Sequence[Any]], *, at: datetime | None = None
    ) -> dict[str, list[Any]]:
        """As ``read``, of columns of equal length to columns."""
        body = {"columns": {name: list(one) for name, one in columns.items()}, **_instant(at)}
        answer = self._asked(_read_path(service), _encoded(body), _JSON)
        return dict(msgspec.json.decode(answer.content)["columns"])

    def read_arrow(self, service: str, rows: pa.Table) -> pa.Table:
        """As ``read``, of an Arrow table to an Arrow table with the features' own types."""
        import pyarrow as pa

        answer = self._asked(_read_path(service), _stream(rows), _ARROW)
        with pa.ipc.open_stream(answer.content) as reader:
            return reader.read_all()

    def push(
        self,
        stream: str,
        rows: Sequence[Mapping[str, Any]] | pa.Table,
        *,
        key: str | None = None,
        ack: Ack = Ack.ONLINE,
    ) -> Pushed:
        """Push events: all of them are taken, or none.

        Args:
            stream: the stream, or the source table.
            rows: dicts (times with a zone), or an Arrow table.
            key: makes the push happen once, however often it is repeated.
            ack: whether to wait until the events are durable, or can be read online.
        """
        if isinstance(rows, Sequence):
            body, media = _encoded({"rows": list(rows)}), _JSON
        else:
            body, media = _stream(rows), _ARROW
        path = f"/v1/streams/{quote(stream, safe='')}/events"
        headers = {"idempotency-key": key} if key else {}
        answer = self._asked(f"{path}?ack={Ack(ack)}", body, media, headers)
        return Pushed.model_validate_json(answer.content)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _asked(
        self, path: str, body: bytes, media: str, more: Mapping[str, str] | None = None
    ) -> httpx.Response:
        headers = {
            "authorization": f"Bearer {self._token()}",
            "content-type": media,
            **(more or {}),
        }
        if self._purpose:
            headers["falaj-purpose"] = quote(self._purpose, safe=" ")
        return sent(
            self._client, self._client.build_request("POST", path, content=body, headers=headers)
        )


def connect_features(
    url: str,
    *,
    token: str | Callable[[], str] | None = None,
    control: str | None = None,
    service: str | None = None,
    secret: str | None = None,
    certificate: Path | str | None = None,
    ca: Path | str | None = None,
    purpose: str | None = None,
    timeout_seconds: float = 10.0,
) -> FeaturesClient:
    """A client of the inference workers.

    Args:
        url: the workers' address, ``https://…`` (`falaj up` tells it).
        token: an access token, or a function that gives a valid one; or
        control, service, secret: the control plane's address and a service account, whose
            tokens are renewed there; or
        control, certificate: the folder of a service account's certificate, as for
            ``falaj.connect``, with ``service`` and ``secret`` for the first one.
        ca: a file with the certificate authority to trust (PEM).
        purpose: why data is asked for.

    Raises:
        InvalidInput: an address is not https, the CA file cannot be read, or nothing says
            who asks.
    """
    url = url.rstrip("/")
    if certificate is not None and control is not None:
        way = certified(
            control.rstrip("/"), Path(certificate), service=service, secret=secret, ca=ca
        )
        shown = httpx.Client(base_url=url, transport=way, timeout=timeout_seconds)
        return FeaturesClient(shown, way.token, purpose=purpose)
    client = httpx.Client(base_url=url, verify=trusted(url, ca), timeout=timeout_seconds)
    if callable(token):
        return FeaturesClient(client, token, purpose=purpose)
    if token is not None:
        return FeaturesClient(client, lambda: token, purpose=purpose)
    if control is None or service is None or secret is None:
        client.close()
        raise InvalidInput(
            "Nothing says who asks for features.",
            hint="Give token=, or control=, service= and secret= of a service account.",
        )
    control = control.rstrip("/")
    asked = httpx.Client(base_url=control, verify=trusted(control, ca), timeout=timeout_seconds)
    tokens = ServiceTokens(asked, service, secret)
    return FeaturesClient(client, tokens, purpose=purpose, close=asked.close)


def _read_path(service: str) -> str:
    return f"/v1/features/{quote(service, safe='')}/read"


def _instant(at: datetime | None) -> dict[str, datetime]:
    return {} if at is None else {"at": at}


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return msgspec.json.encode(body, enc_hook=_plain)
    except (TypeError, msgspec.MsgspecError, UnicodeEncodeError) as error:
        raise InvalidInput(
            f"The rows cannot be sent as JSON: {error}.", hint="Send an Arrow table instead."
        ) from None


def _plain(value: Any) -> Any:
    """What numpy calls a number is one."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is no JSON")


def _stream(rows: pa.Table) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())
