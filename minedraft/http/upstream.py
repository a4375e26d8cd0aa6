"""What the door needs of a coordinator: `minedraft.client.AsyncClient` is one."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol, cast

import structlog

from minedraft.errors import DeadlineExceeded, MinedraftError, PeerUnavailable, Unauthenticated
from minedraft.generation import GenerateRequest, Output, ServerInfo
from minedraft.http.errors import ModelNotFound
from minedraft.http.vocabulary import Vocabulary
from minedraft.types import ModelInfo

FRESH_SECONDS: Final = 5.0  # a target never changes while its coordinator lives
ANSWER_SECONDS: Final = 5.0
RETRY_SECONDS: Final = 1.0
TELL_SECONDS: Final = 10.0  # between two lines about one fault
REFUSED: Final = "the coordinator REFUSES this door: give it a valid --token-file (or --tls-client-cert)"


class Upstream(Protocol):
    """A coordinator, as clients see it."""

    def generate(self, request: GenerateRequest) -> AsyncIterator[Output]:
        """An async generator: closing it cancels the request."""

    async def server_info(self, *, timeout: float | None = None) -> ServerInfo: ...  # noqa: ASYNC109  # gRPC's own


class Trusting:
    """An `Upstream` whose refusal of this door is the operator's to mend: clients are told that nothing is served."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._told: float | None = None

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Output]:
        """See `Upstream.generate`. Raises PeerUnavailable where the coordinator refuses the door's own credentials."""
        try:
            async with aclosing(cast("AsyncGenerator[Output]", self._upstream.generate(request))) as pieces:
                async for piece in pieces:
                    yield piece
        except Unauthenticated as error:
            raise self._misled(error) from error

    async def server_info(self, *, timeout: float | None = None) -> ServerInfo:  # noqa: ASYNC109
        """See `Upstream.server_info`."""
        try:
            return await self._upstream.server_info(timeout=timeout)
        except Unauthenticated as error:
            raise self._misled(error) from error

    def _misled(self, error: Unauthenticated) -> PeerUnavailable:
        """The client's own key was right: 503, never 401."""
        now = time.monotonic()
        if self._told is None or now - self._told > TELL_SECONDS:
            self._told = now
            structlog.get_logger().error(REFUSED, reason=str(error))
        return PeerUnavailable("the server is not set up to call its coordinator; its log has more")


async def tell_until_reached(upstream: Upstream) -> None:
    """Log why the coordinator cannot be asked, each reason once, until it can."""
    told = ""
    while True:
        try:
            await upstream.server_info(timeout=ANSWER_SECONDS)
        except MinedraftError as error:
            reason = REFUSED if isinstance(error, Unauthenticated) else "the coordinator cannot be asked yet"
            if str(error) != told:
                told = str(error)
                structlog.get_logger().warning(reason, reason=told)
            await asyncio.sleep(RETRY_SECONDS)
        else:
            structlog.get_logger().info("the coordinator answers")
            return


@dataclass(frozen=True, slots=True)
class Serving:
    """What was served a short time ago."""

    names: tuple[str, ...]  # that clients may ask for, the preferred one first
    target: ModelInfo
    fingerprint: str  # changes with the software, the model and its number type
    created: int  # when this door first saw the target, Unix seconds
    vocabulary: Vocabulary


class Served:
    """Follows what the coordinator serves. Mutated by its own methods only, on the event loop."""

    def __init__(self, upstream: Upstream, vocabulary: Vocabulary, model_name: str) -> None:
        """`model_name`, unless empty, is a further name for the target, and the preferred one."""
        self._upstream = upstream
        self._vocabulary = vocabulary
        self._model_name = model_name
        self._last: Serving | None = None
        self._asked = 0.0

    async def now(self) -> Serving:
        """Raises PeerUnavailable while nothing is served."""
        if self._last is None or time.monotonic() - self._asked > FRESH_SECONDS:
            info = await self.info(ANSWER_SECONDS)
            if info.target is None:
                raise PeerUnavailable("the coordinator has not seen a verifier yet")
            self._last, self._asked = self._of(info, info.target), time.monotonic()
        return self._last

    async def info(self, seconds: float) -> ServerInfo:
        """Fresh from the coordinator. Raises PeerUnavailable when it does not answer in time."""
        try:
            return await self._upstream.server_info(timeout=seconds)
        except DeadlineExceeded:
            raise PeerUnavailable(f"the coordinator has not answered for {seconds:g} s") from None

    def coordinators_name(self, asked: str | None) -> str:
        """The name to send on; "" is whatever is served. Raises ModelNotFound for the empty name."""
        if asked == "":
            raise ModelNotFound(asked)
        return "" if asked in (None, self._model_name) else str(asked)

    def _of(self, info: ServerInfo, target: ModelInfo) -> Serving:
        last = self._last
        if last is not None and last.target == target:
            return last
        fits = target.tokenizer_fingerprint in ("", self._vocabulary.fingerprint)
        if self._vocabulary.known and not fits:
            structlog.get_logger().error(
                "--tokenizer is not the target's: logprobs name tokens by their ids", model=target.model_id
            )
        text = f"{info.version} {target.model_id} {target.tokenizer_fingerprint} {target.dtype}"
        return Serving(
            names=tuple(dict.fromkeys(name for name in (self._model_name, target.model_id) if name)),
            target=target,
            fingerprint=f"fp_{hashlib.sha256(text.encode()).hexdigest()[:12]}",
            created=int(time.time()),
            vocabulary=self._vocabulary if fits else Vocabulary(),
        )
