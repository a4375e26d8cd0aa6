"""Python clients of the public service: `AsyncClient` on grpc.aio, and `Client` for programs without an event loop.

    async with AsyncClient("127.0.0.1:50050") as client:
        async for piece in client.generate(GenerateRequest(Text("Once"), SamplingParams(max_new_tokens=32))):
            print(piece.text, end="")

Every call raises the family of `minedraft.errors`: InvalidRequest, Overloaded, PeerUnavailable, DeadlineExceeded,
RequestCancelled, Unauthenticated or InternalError.

Both clients take the same options. `token` is sent with every call, under TLS or within this machine only. `ca` is a
PEM file of the authorities to believe, or "system", and switches TLS on; `cert` and `key` are PEM files for servers
that want a certificate, `server_name` the name that the server's must carry where that is not the host. Files are read
once: a client made after a rotation has the new ones. Wrong ones raise SetupError at once.
"""
# ruff: noqa: ASYNC109  # a call's deadline is gRPC's own, and reaches the server

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final, Self

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from minedraft.config import MIB
from minedraft.errors import DeadlineExceeded, InvalidRequest, MinedraftError, PeerUnavailable, SetupError
from minedraft.generation import GenerateRequest, Output, PeerInfo, ServerInfo, TimelinePage
from minedraft.rpc import convert_public as convert
from minedraft.rpc.cancellation import raise_if_cancelled
from minedraft.rpc.credentials import ClientTls, may_carry_token
from minedraft.rpc.status import error_of
from minedraft.rpc.tokens import SHORTEST, TOKEN, first_secret
from minedraft.v1 import generation_pb2 as pb
from minedraft.v1 import generation_pb2_grpc as pb_grpc

HEALTH_REQUEST: Final = health_pb2.HealthCheckRequest(service="minedraft.v1.GenerationService")
MAX_MESSAGE: Final = 64 * MIB
POLL_SECONDS: Final = 0.05
REASON_SECONDS: Final = 1.0
NO_TLS: Final = "no TLS connection to"
# gRPC's own pause between attempts to connect grows to two minutes; a restarted server should be found at once.
# A server that vanished without closing its connection is noticed after about 15 s.
OPTIONS: Final = (
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
)
HANDSHAKE: Final = "handshake failed"
LONGEST_REASON: Final = 200  # characters of what OpenSSL says
NO_CONNECTION: Final = ("failed to connect", "dns resolution failed", "connection refused", "name resolution")


class AsyncClient:
    """One connection to a server, for one event loop. Many calls may run at once."""

    def __init__(
        self,
        address: str,
        *,
        token: str = "",
        ca: str | Path = "",
        cert: str | Path = "",
        key: str | Path = "",
        server_name: str = "",
    ) -> None:
        """`address` is HOST:PORT. Nothing is sent before the first call."""
        self.address = address
        tls = ClientTls(str(ca), str(cert), str(key), server_name)
        self._metadata = _metadata(address, tls, token)
        self._channel = tls.aio_channel(address, OPTIONS)
        self._service = pb_grpc.GenerationServiceStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)  # its type stubs have no methods

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End the connection; running calls are cancelled."""
        await self._channel.close()

    async def generate(self, request: GenerateRequest, *, timeout: float | None = None) -> AsyncIterator[Output]:
        """The output in pieces as it is committed; the last has finish_reason, usage and speculation.

        `timeout` is in seconds for the whole generation. Closing the iterator, or cancelling the task that reads it,
        cancels the request at the server.
        """
        call = self._service.Generate(
            _written(request), timeout=timeout, metadata=(*self._metadata, *request.trace_headers)
        )
        try:
            async for message in call:
                yield convert.read_output(message)
        except grpc.RpcError as error:
            raise _ended(self.address, error) from error
        finally:
            call.cancel()

    async def complete(self, request: GenerateRequest, *, timeout: float | None = None) -> Output:
        """The whole output in one piece."""
        message = pb.CompleteRequest(generate=_written(request))
        try:
            response = await self._service.Complete(
                message, timeout=timeout, metadata=(*self._metadata, *request.trace_headers)
            )
        except grpc.RpcError as error:
            raise _ended(self.address, error) from error
        return convert.read_output(response.output)

    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """The models, the lanes, the limits and what happened so far."""
        try:
            response = await self._service.GetServerInfo(
                pb.GetServerInfoRequest(), timeout=timeout, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise _ended(self.address, error) from error
        return convert.read_server(response)

    async def timeline(self, after: int = 0, *, limit: int = 0, timeout: float | None = None) -> TimelinePage:
        """Steps of drafters and verifiers with numbers above `after`, the oldest first; `limit` 0: as many as go."""
        try:
            response = await self._service.GetTimeline(
                pb.GetTimelineRequest(after=after, limit=limit), timeout=timeout, metadata=self._metadata
            )
        except grpc.RpcError as error:
            raise _ended(self.address, error) from error
        return convert.read_timeline(response)

    async def wait_ready(self, timeout: float = 60.0, *, drafter: bool = False) -> ServerInfo:
        """Return once the server is healthy and its verifier is connected. Raises PeerUnavailable after `timeout` s.

        With `drafter`, wait also until its drafter, if it has one, is connected and its channel chosen, or refused.
        """
        deadline = time.monotonic() + timeout
        while True:
            missing, info = await self._missing(deadline - time.monotonic(), drafter)
            if info is not None:
                return info
            if time.monotonic() + POLL_SECONDS > deadline:
                raise PeerUnavailable(_not_ready(self.address, timeout, missing))
            await asyncio.sleep(POLL_SECONDS)

    async def _missing(self, timeout: float, drafter: bool) -> tuple[str, ServerInfo | None]:
        """What is still awaited, or the server's information when nothing is."""
        timeout = max(timeout, POLL_SECONDS)
        try:
            try:
                health = await self._health.Check(HEALTH_REQUEST, timeout=timeout, wait_for_ready=True)
            except grpc.RpcError as error:
                raise_if_cancelled()
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
                # It may not even be connected, which only a call that does not wait for that is told, with the reason.
                health = await self._health.Check(HEALTH_REQUEST, timeout=REASON_SECONDS)
            if health.status != health_pb2.HealthCheckResponse.SERVING:
                return "its health is NOT_SERVING", None
            info = await self.server_info(timeout=timeout)
        except grpc.RpcError as error:
            return _while_waiting(_ended(self.address, error)), None
        except (PeerUnavailable, DeadlineExceeded) as error:
            return _while_waiting(error), None
        awaited = awaited_peer(info, drafter)
        return awaited, None if awaited else info


class Client:
    """`AsyncClient` for programs without an event loop. May be used from several threads."""

    def __init__(
        self,
        address: str,
        *,
        token: str = "",
        ca: str | Path = "",
        cert: str | Path = "",
        key: str | Path = "",
        server_name: str = "",
    ) -> None:
        """`address` is HOST:PORT. Nothing is sent before the first call."""
        self.address = address
        tls = ClientTls(str(ca), str(cert), str(key), server_name)
        self._metadata = _metadata(address, tls, token)
        self._channel = tls.channel(address, OPTIONS)
        self._service = pb_grpc.GenerationServiceStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)  # its type stubs have no methods

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; running calls are cancelled."""
        self._channel.close()

    def generate(self, request: GenerateRequest, *, timeout: float | None = None) -> Iterator[Output]:
        """See `AsyncClient.generate`. Leaving the loop early cancels the request at the server."""
        call = self._service.Generate(
            _written(request), timeout=timeout, metadata=(*self._metadata, *request.trace_headers)
        )
        try:
            for message in call:
                yield convert.read_output(message)
        except grpc.RpcError as error:
            raise _translated(self.address, error) from error
        finally:
            call.cancel()

    def complete(self, request: GenerateRequest, *, timeout: float | None = None) -> Output:
        """See `AsyncClient.complete`."""
        message = pb.CompleteRequest(generate=_written(request))
        try:
            response = self._service.Complete(
                message, timeout=timeout, metadata=(*self._metadata, *request.trace_headers)
            )
        except grpc.RpcError as error:
            raise _translated(self.address, error) from error
        return convert.read_output(response.output)

    def server_info(self, *, timeout: float | None = None) -> ServerInfo:
        """See `AsyncClient.server_info`."""
        try:
            response = self._service.GetServerInfo(pb.GetServerInfoRequest(), timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _translated(self.address, error) from error
        return convert.read_server(response)

    def timeline(self, after: int = 0, *, limit: int = 0, timeout: float | None = None) -> TimelinePage:
        """See `AsyncClient.timeline`."""
        request = pb.GetTimelineRequest(after=after, limit=limit)
        try:
            response = self._service.GetTimeline(request, timeout=timeout, metadata=self._metadata)
        except grpc.RpcError as error:
            raise _translated(self.address, error) from error
        return convert.read_timeline(response)

    def wait_ready(self, timeout: float = 60.0, *, drafter: bool = False) -> ServerInfo:
        """See `AsyncClient.wait_ready`."""
        deadline = time.monotonic() + timeout
        while True:
            missing, info = self._missing(deadline - time.monotonic(), drafter)
            if info is not None:
                return info
            if time.monotonic() + POLL_SECONDS > deadline:
                raise PeerUnavailable(_not_ready(self.address, timeout, missing))
            time.sleep(POLL_SECONDS)

    def _missing(self, timeout: float, drafter: bool) -> tuple[str, ServerInfo | None]:
        timeout = max(timeout, POLL_SECONDS)
        try:
            try:
                health = self._health.Check(HEALTH_REQUEST, timeout=timeout, wait_for_ready=True)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise
                health = self._health.Check(HEALTH_REQUEST, timeout=REASON_SECONDS)  # see AsyncClient
            if health.status != health_pb2.HealthCheckResponse.SERVING:
                return "its health is NOT_SERVING", None
            info = self.server_info(timeout=timeout)
        except grpc.RpcError as error:
            return _while_waiting(_translated(self.address, error)), None
        except (PeerUnavailable, DeadlineExceeded) as error:
            return _while_waiting(error), None
        awaited = awaited_peer(info, drafter)
        return awaited, None if awaited else info


def awaited_peer(info: ServerInfo, drafter: bool) -> str:
    """What a server still lacks, in words; empty when it lacks nothing. A refused drafter is not awaited."""
    if not info.verifier.connected:
        reason = f": {info.verifier.refusal}" if info.verifier.refusal else ""
        return f"its verifier at {info.verifier.address} is not connected{reason}"
    if drafter and info.drafters and not any(_decided(peer) for peer in info.drafters):
        return f"its drafter at {info.drafter.address} is not connected"
    return ""


def _decided(drafter: PeerInfo) -> bool:
    """Whether it is known how, or why not, a drafter is used. Only those that lanes are paired with come to that."""
    return bool(drafter.refusal) or (drafter.connected and bool(drafter.channel or drafter.channel_note))


def token_in(file: str) -> str:
    """The first token of a file that has not expired; "" without a file. Raises SetupError."""
    return first_secret(Path(file)) if file else ""


def _metadata(address: str, tls: ClientTls, token: str) -> tuple[tuple[str, str], ...]:
    """What goes with every call. Raises SetupError for a token that others could read on its way."""
    if not token:
        return ()
    if not may_carry_token(address, tls):
        raise SetupError(f"a token is not sent to {address} in plaintext: give a `ca` (--tls-ca) for TLS")
    if not TOKEN.fullmatch(token) or len(token) < SHORTEST:
        raise SetupError(f"token: at least {SHORTEST} letters, digits and characters of ._~+/-")
    return (("authorization", f"Bearer {token}"),)


def _written(request: GenerateRequest) -> pb.GenerateRequest:
    """The message for a request. Raises InvalidRequest for numbers that the wire cannot carry: a seed below 0."""
    try:
        return convert.write_request(request)
    except (ValueError, TypeError) as error:
        raise InvalidRequest("request", str(error)) from error


def _ended(address: str, error: grpc.RpcError) -> MinedraftError:
    """How a call of this task ended. Raises CancelledError where that is the task's own end."""
    raise_if_cancelled()
    return _translated(address, error)


def _translated(address: str, error: grpc.RpcError) -> MinedraftError:
    """The family's error. A server that cannot be reached is told apart from one that says UNAVAILABLE itself."""
    meant = error_of(error)
    if isinstance(meant, PeerUnavailable) and HANDSHAKE in str(meant).lower():
        reason = str(meant)[str(meant).lower().index(HANDSHAKE) + len(HANDSHAKE) :].strip(": ")
        return PeerUnavailable(f"{NO_TLS} {address}: {reason[:LONGEST_REASON]}")
    if isinstance(meant, PeerUnavailable) and any(words in str(meant).lower() for words in NO_CONNECTION):
        return PeerUnavailable(f"no server can be reached at {address}")
    return meant


def _while_waiting(error: MinedraftError) -> str:
    """Why a probe failed, in words. Errors that waiting cannot mend are raised."""
    if isinstance(error, DeadlineExceeded):
        return "no answer"
    if isinstance(error, PeerUnavailable):
        return str(error)
    raise error


def _not_ready(address: str, timeout: float, missing: str) -> str:
    return f"{address} is not ready after {timeout:g} s: {missing}"
