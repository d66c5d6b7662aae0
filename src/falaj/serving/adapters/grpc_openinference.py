"""The Open Inference Protocol (V2) over gRPC, on the event loop of an inference worker.

The workers of a machine listen on one port, each with a socket of its own (SO_REUSEPORT);
the system spreads connections over them.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import unquote

from falaj.kernel.errors import (
    ComponentRefused,
    FalajError,
    Forbidden,
    Unauthenticated,
    Unavailable,
)
from falaj.kernel.ports import TurnedAway
from falaj.serving.adapters.grpc_bodies import decoded, request_of
from falaj.serving.adapters.grpc_messages import SERVICE, message
from falaj.serving.adapters.grpc_trails import CallTrails
from falaj.serving.credentials import Credentials
from falaj.serving.errors import DeadlineExceeded, ScoringFailed
from falaj.serving.openinference import error_text, metadata, server_metadata
from falaj.serving.question import Question
from falaj.serving.tensors import checked_version
from falaj.serving.trails import Trails
from falaj.trust.bindings import thumbprint

if TYPE_CHECKING:
    from falaj.serving.plan import RequestPlan
    from falaj.serving.predictions import Parsed
    from falaj.serving.question import Predictions
    from falaj.serving.requests import Request

_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "FAILED_PRECONDITION",
    413: "RESOURCE_EXHAUSTED",
    415: "INVALID_ARGUMENT",
    422: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_MOST_CALLS = 4_096
_MOST_STREAMS = 256
"""Calls of one connection at once."""
_IDLE_MS = 300_000
_GRACE_SECONDS = 5.0
_ON_ITS_WAY_SECONDS = 0.25
"""A client's deadline ends by its own clock, as much earlier as its call was on its way."""
_Told = Callable[[bytes, Any, "Request | None"], Awaitable[bytes]]
"""Answers a call's message; a request with a trail if somebody wants to know of it."""


class Served(Protocol):
    """A certificate that may be replaced while it is served."""

    generation: int
    """Another number says that it was replaced."""

    def pair(self) -> tuple[bytes, bytes]:
        """Its key and its chain (PEM)."""
        ...


class GrpcInference:
    """Serves ``inference.GRPCInferenceService``; a companion of an inference worker.

    Args:
        predictions: answers what is asked.
        address: ``host:port`` to listen on; port 0 for a free one, see ``port``.
        certificate: tells its certificate as it is now, for TLS; None for none.
        clients: the authorities (PEM) of which clients must show a certificate; None: they
            need none.
        turned_away: told of each error that is answered, its client's address and the call.
        most_bytes: of one message. Each endpoint's own limit holds below it.
        trails: notes what becomes of calls that are traced or told to the access log.

    Raises:
        ComponentRefused: grpcio is not installed.
    """

    def __init__(
        self,
        predictions: Predictions,
        address: str,
        certificate: Served | None,
        *,
        clients: Path | None = None,
        most_bytes: int,
        trails: Trails | None = None,
        turned_away: TurnedAway | None = None,
    ) -> None:
        try:
            import grpc.aio
        except ImportError:
            raise ComponentRefused(
                "The setting inference.grpc_port needs grpcio and protobuf.",
                hint="Install them with `pip install 'falaj[grpc]'`, or unset it.",
            ) from None
        self._grpc = grpc
        self._predictions = predictions
        self._address = address
        self._certificate = certificate
        self._clients = clients
        self._most_bytes = most_bytes
        self._trails = CallTrails(trails or Trails(), SERVICE)
        self._turned_away = turned_away
        self._server: Any = None
        self.port = 0
        """Where it listens, once it does."""

    async def start(self) -> None:
        """Begin to serve.

        Raises:
            Unavailable: another program holds the port.
        """
        grpc = self._grpc
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._most_bytes),
                ("grpc.max_concurrent_streams", _MOST_STREAMS),
                ("grpc.max_connection_idle_ms", _IDLE_MS),
                ("grpc.so_reuseport", 1),
            ],
            maximum_concurrent_rpcs=_MOST_CALLS,
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))
        try:
            if self._certificate is None:
                self.port = self._server.add_insecure_port(self._address)
            else:
                credentials = self._secured(self._certificate)
                self.port = self._server.add_secure_port(self._address, credentials)
        except RuntimeError as error:
            raise Unavailable(
                f"The worker cannot listen for gRPC on {self._address}: {error}.",
                hint="Choose another port with the setting inference.grpc_port.",
            ) from None
        await self._server.start()

    def _secured(self, certificate: Served) -> Any:
        """Credentials that follow the certificate: each new connection sees the present one."""
        grpc = self._grpc
        clients = None if self._clients is None else self._clients.read_bytes()
        known = certificate.generation

        def made() -> Any:
            return grpc.ssl_server_certificate_configuration([certificate.pair()], clients)

        def renewed() -> Any:
            nonlocal known
            if known == certificate.generation:
                return None
            known = certificate.generation
            return made()

        return grpc.dynamic_ssl_server_credentials(
            made(), renewed, require_client_authentication=clients is not None
        )

    async def stop(self) -> None:
        """Take no new call, answer what was asked, then end."""
        if self._server is not None:
            await self._server.stop(_GRACE_SECONDS)

    def _handlers(self) -> Any:
        grpc = self._grpc
        # Messages stay bytes here: who asks is known before anything is decoded.
        unary = {
            "ServerLive": self._live,
            "ServerReady": self._ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelInfer": self._infer,
        }
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(self._guarded(name, call))
            for name, call in unary.items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._stream)
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    def _guarded(self, name: str, call: _Told) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """A call whose errors are told as statuses."""

        async def guarded(data: bytes, context: Any) -> bytes:
            request = self._trails.begin(name, data, context)
            try:
                told = await call(data, context, request)
            except asyncio.CancelledError:
                self._cancelled(request, context)
                raise
            except Exception as error:  # noqa: BLE001 - all of them are told to the client
                self._tell_of(error, name, context)
                document = self._problem(error, name, data)
                code, text, trailing = self._told(document)
                more = self._failed(request, context, error, document)
                await context.abort(code, text, trailing + more)
                raise AssertionError from None  # abort has raised
            more = self._trails.ended(request, context, n_bytes=len(told))
            if more:
                context.set_trailing_metadata(more)
            return told

        return guarded

    def _failed(
        self, request: Request | None, context: Any, error: Exception, document: dict[str, Any]
    ) -> tuple[tuple[str, str], ...]:
        """Tell of a message whose answer is an error; returns further trailing metadata."""
        status = int(document["status"])
        known = error if isinstance(error, FalajError) else ScoringFailed(str(document["code"]))
        return self._trails.ended(
            request, context, status=status, code=_code_of(status), error=known
        )

    def _cancelled(self, request: Request | None, context: Any) -> None:
        """Tell of a call that its client's deadline has ended; who has gone is told nothing."""
        remaining = context.time_remaining()
        if remaining is not None and remaining <= _ON_ITS_WAY_SECONDS:
            late = DeadlineExceeded("The deadline of the call was over before its answer.")
            self._trails.ended(request, context, status=504, code=_code_of(504), error=late)

    def _tell_of(self, error: BaseException, name: str, context: Any) -> None:
        if self._turned_away is not None:
            # "ipv4:10.0.0.1:5000", "ipv6:%5B::1%5D:5000"
            where = unquote(context.peer()).partition(":")[2].rpartition(":")[0].strip("[]")
            self._turned_away(error, where, f"{SERVICE}/{name}")

    def _problem(self, error: BaseException, name: str, data: bytes) -> dict[str, Any]:
        endpoint = ""
        if name == "ModelInfer" and not isinstance(error, Unauthenticated):
            try:
                endpoint = decoded("ModelInferRequest", data).model_name
            except FalajError:
                endpoint = ""  # what is no request is of no endpoint
        return self._predictions.problem_of(error, endpoint=endpoint, what=f"{SERVICE}/{name}")

    def _told(self, document: dict[str, Any]) -> tuple[Any, str, tuple[tuple[str, str], ...]]:
        status = int(document["status"])
        code = getattr(self._grpc.StatusCode, _code_of(status))
        trailing = [("falaj-code", str(document["code"]))]
        if status in (429, 503):
            trailing.append(("grpc-retry-pushback-ms", "1000"))
        return code, error_text(document), tuple(trailing)

    # -- calls ----------------------------------------------------------------------

    async def _live(self, _data: bytes, _context: Any, _request: Request | None) -> bytes:
        return _bytes("ServerLiveResponse", live=True)

    async def _ready(self, _data: bytes, _context: Any, _request: Request | None) -> bytes:
        return _bytes("ServerReadyResponse", ready=self._predictions.why_not_ready is None)

    async def _server_metadata(self, _data: bytes, context: Any, _request: Request | None) -> bytes:
        await self._predictions.known(_credentials(context))
        return _bytes("ServerMetadataResponse", **server_metadata())

    async def _model_ready(self, data: bytes, context: Any, _request: Request | None) -> bytes:
        try:
            await self._plan("ModelReadyRequest", data, context)
        except (Unauthenticated, Forbidden):
            raise
        except FalajError:
            return _bytes("ModelReadyResponse", ready=False)
        return _bytes("ModelReadyResponse", ready=True)

    async def _model_metadata(self, data: bytes, context: Any, _request: Request | None) -> bytes:
        plan = await self._plan("ModelMetadataRequest", data, context)
        return _bytes("ModelMetadataResponse", **metadata(plan))

    async def _plan(self, name: str, data: bytes, context: Any) -> RequestPlan:
        credentials = _credentials(context)
        await self._predictions.known(credentials)
        request = decoded(name, data)
        plan = await self._predictions.plan_for(request.name, credentials)
        checked_version(plan, request.version)
        return plan

    async def _infer(self, data: bytes, context: Any, tracked: Request | None) -> bytes:
        started = time.perf_counter() if tracked is None else tracked.started
        credentials = _credentials(context)
        await self._predictions.known(credentials)
        request = decoded("ModelInferRequest", data)
        remaining = context.time_remaining()
        if remaining is not None and remaining <= 0:
            raise DeadlineExceeded(
                "The deadline of the call is over.", hint="Repeat it with a later one."
            )

        def parse(plan: RequestPlan, caller: str) -> Parsed:
            return request_of(plan, request, caller=caller, started=started)

        until = None if remaining is None else started + remaining
        trail = None if tracked is None else tracked.trail
        question = Question(
            request.model_name, credentials, started, len(data), parse, until, trail
        )
        told = await self._predictions.ask(question)
        return told if isinstance(told, bytes) else told.body

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """Answer the requests of a stream in their order; an error ends none but its own."""
        async for data in requests:
            request = self._trails.begin("ModelStreamInfer", data, context)
            try:
                told = await self._infer(data, context, request)
            except asyncio.CancelledError:
                self._cancelled(request, context)
                raise
            except Exception as error:  # noqa: BLE001 - all of them are told to the client
                self._tell_of(error, "ModelStreamInfer", context)
                document = self._problem(error, "ModelInfer", data)
                self._failed(request, context, error, document)
                if document["status"] == 401:
                    code, text, trailing = self._told(document)
                    await context.abort(code, text, trailing)
                yield _bytes("ModelStreamInferResponse", error_message=error_text(document))
                continue
            self._trails.ended(request, context, n_bytes=len(told))
            response = message("ModelInferResponse").FromString(told)
            yield _bytes("ModelStreamInferResponse", infer_response=response)


def _code_of(status: int) -> str:
    """The name of the gRPC status that means the same as one of HTTP."""
    return _CODES.get(status, "INTERNAL")


def _bytes(kind: str, /, **values: Any) -> bytes:
    return bytes(message(kind)(**values).SerializeToString())


def _credentials(context: Any) -> Credentials:
    """What the call shows of who asks; raises Unauthenticated if it shows several tokens."""
    found = [value for name, value in context.invocation_metadata() if name == "authorization"]
    if len(found) > 1:
        raise Unauthenticated("The call has several authorizations.", hint="Send one.")
    value = found[0] if found else b""
    header = value.encode("latin-1") if isinstance(value, str) else bytes(value)
    shown = context.auth_context().get("x509_pem_cert")
    return Credentials(header, _thumbprint(shown[0]) if shown else None)


@lru_cache(maxsize=1_024)
def _thumbprint(pem: bytes) -> str:
    return thumbprint(ssl.PEM_cert_to_DER_cert(pem.decode("ascii")))
