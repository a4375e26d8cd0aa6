"""The coordinator's side of a model stream: one long-lived stream a service, reopened for ever under a new generation.

Everything here runs on the event loop. A step is put on the outgoing queue before the first suspension, and one task
writes the stream, so steps and releases arrive in the order in which they were asked for.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

import grpc
import structlog

from minedraft.config import MIB, CoordinatorSettings
from minedraft.errors import ChannelError, PeerUnavailable, ProtocolError, SetupError
from minedraft.generation import PeerInfo
from minedraft.rpc.cancellation import raise_if_cancelled
from minedraft.rpc.convert import read_state, read_welcome
from minedraft.rpc.convert_channel import read_channel_answer, read_fault, write_channel_request
from minedraft.rpc.credentials import ClientTls
from minedraft.types import ChannelAnswer, ChannelFault, ChannelRequest, ModelInfo, ServiceState, Welcome
from minedraft.v1 import common_pb2 as common

Reply = TypeVar("Reply")

FIRST_PAUSE_SECONDS: Final = 0.05
LONGEST_PAUSE_SECONDS: Final = 1.0
WELCOME_SECONDS: Final = 10.0
CHANNEL_SECONDS: Final = 10.0  # for one part of opening a tensor channel


class Peer(Generic[Reply]):
    """One model service, as `coordinator.ports.Port` describes it. `start` before use, `stop` after."""

    role: str
    _request: Callable[..., Any]
    _read_reply: Callable[[Any], Reply]

    def __init__(self, address: str, settings: CoordinatorSettings, generations: Iterator[int]) -> None:
        """`generations` numbers the connections of all peers, so that no two have the same number."""
        self.address = address
        self.generation = 0
        self.connections = 0
        self.info: ModelInfo | None = None
        self.state: ServiceState | None = None
        self.welcome: Welcome | None = None  # of the newest connection
        self.on_change: list[Callable[[], None]] = []  # called when a connection begins, ends, or takes no more steps
        self.on_fault: list[Callable[[ChannelFault], None]] = []  # called when a tensor channel failed in a step
        self._channel_answers: dict[int, asyncio.Future[ChannelAnswer]] = {}
        self._settings = settings
        self._generations = generations
        self._tls = ClientTls.of(settings)
        self._connected = False
        self._came = asyncio.Event()
        self._outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self._awaited: dict[int, asyncio.Future[Reply]] = {}
        self._overdue: set[int] = set()
        self._step_ids = itertools.count(1)
        self._silent_beats = 0
        self._task: asyncio.Task[None] | None = None
        self._log = structlog.get_logger().bind(peer=self.role, address=address)

    @property
    def ready(self) -> bool:
        return self._connected and not self._overdue and not self.refusal

    @property
    def refusal(self) -> str:
        """Why a reachable service is not used; "" when it is."""
        return ""

    @property
    def linked(self) -> bool:
        """Whether a stream is open, used or not."""
        return self._connected

    @property
    def connected(self) -> bool:
        return self._connected and not self.refusal

    @property
    def free_blocks(self) -> int:
        return self.state.free_blocks if self.state else 0

    def describe(self) -> PeerInfo:
        return PeerInfo(
            address=self.address,
            connected=self.connected,
            model=self.info,
            refusal=self.refusal,
            state=self.state,
            connections=self.connections,
        )

    def start(self) -> None:
        self._task = asyncio.create_task(self._stay_connected())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def wait_ready(self) -> None:
        while not self.ready:
            self._came.clear()
            await self._came.wait()

    def release(self, generation: int, sequence_ids: Sequence[int]) -> None:
        if generation == self.generation and self._connected and sequence_ids:
            self._outgoing.put_nowait(self._request(release=common.Release(sequence_ids=sequence_ids)))

    async def ask_channel(self, generation: int, request: ChannelRequest) -> ChannelAnswer:
        """Have the service do its part for a tensor channel. Raises ChannelError, also when the service is gone."""
        if not self._connected or generation != self.generation:
            raise ChannelError(f"the {self.role} is not connected")
        request_id = next(self._step_ids)
        answer: asyncio.Future[ChannelAnswer] = asyncio.get_running_loop().create_future()
        self._channel_answers[request_id] = answer
        self._outgoing.put_nowait(self._request(channel=write_channel_request(request_id, request)))
        try:
            async with asyncio.timeout(CHANNEL_SECONDS):
                return await answer
        except TimeoutError:
            raise ChannelError(f"the {self.role} did not answer within {CHANNEL_SECONDS:g} s") from None
        finally:
            self._channel_answers.pop(request_id, None)

    def relay(self, chunk: common.PayloadChunk) -> None:
        """Pass a piece of a payload on, ahead of the step that refers to it. Dropped when the service is gone."""
        if self._connected:
            self._outgoing.put_nowait(self._request(chunk=chunk))

    async def _step(self, generation: int, message: Callable[[int], Any], items: int, seconds: float) -> Reply:
        """Send a step and await its reply. Raises PeerUnavailable when gone, of another generation, or late."""
        if not self.ready or generation != self.generation:
            raise PeerUnavailable(f"the {self.role} at {self.address} is not connected")
        step_id = next(self._step_ids)
        self._outgoing.put_nowait(message(step_id))
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._awaited[step_id] = reply
        try:
            async with asyncio.timeout(seconds):
                answer = await reply
        except TimeoutError:
            self._overdue.add(step_id)  # no further steps until it is answered: they would queue up behind it
            self._log.warning("step late", seconds=seconds)
            raise PeerUnavailable(f"the {self.role} at {self.address} took over {seconds:g} s for a step") from None
        finally:
            self._awaited.pop(step_id, None)
        if len(self._results(answer)) != items:
            raise PeerUnavailable(f"the {self.role} at {self.address} answered a step of {items} items incompletely")
        return answer

    async def _stay_connected(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            generation = self.generation
            try:
                reason = await self._converse()
            except (grpc.RpcError, ProtocolError, SetupError, TimeoutError, OSError) as error:
                reason = _short(error)
            except Exception as error:  # a peer is called again whatever ended the last call
                reason = _short(error)
                self._log.exception("connection failed")
            raise_if_cancelled()
            if self.generation != generation:
                pause = FIRST_PAUSE_SECONDS
                self._log.warning("peer lost", reason=reason, generation=self.generation)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreads reconnections, no secret
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _converse(self) -> str:
        """One stream from its welcome to its end. Returns or raises why it ended."""
        async with self._tls.aio_channel(self.address, _options(self._settings)) as channel:
            call = self._open(channel)
            tasks: list[asyncio.Task[Any]] = []
            try:
                async with asyncio.timeout(WELCOME_SECONDS):
                    welcome = await call.read()
                    await self._before_use(channel)
                if welcome is grpc.aio.EOF:
                    return await _why(call)
                self._outgoing = asyncio.Queue()
                self._welcome(welcome)
                tasks = [
                    asyncio.create_task(self._write(call, self._outgoing)),
                    asyncio.create_task(self._beat(self._outgoing)),
                    asyncio.create_task(self._read(call)),
                ]
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
                return await _why(call)
            finally:
                self._lost()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                call.cancel()

    def _welcome(self, message: Any) -> None:
        if message.WhichOneof("message") != "welcome":
            raise ProtocolError(f"the {self.role} did not begin with a welcome")
        self.welcome = read_welcome(message.welcome)
        self.info, self.state = self.welcome.model, self.welcome.state
        self.generation = next(self._generations)
        self.connections += 1
        self._silent_beats = 0
        self._connected = True
        self._came.set()
        self._log.info(
            "peer connected", model=self.info.model_id, generation=self.generation, refusal=self.refusal or None
        )
        self._tell()

    def _lost(self) -> None:
        """Fail what is awaited; the next connection starts with a clean slate."""
        self._connected = False
        self._overdue.clear()
        for reply in self._awaited.values():
            if not reply.done():
                reply.set_exception(PeerUnavailable(f"the {self.role} at {self.address} went away"))
        for answer in self._channel_answers.values():
            if not answer.done():
                answer.set_exception(ChannelError(f"the {self.role} went away"))
        self._tell()

    async def _write(self, call: Any, outgoing: asyncio.Queue[Any]) -> None:
        try:
            while True:
                await call.write(await outgoing.get())
        except asyncio.InvalidStateError:  # the stream ended before the reader heard of it; its status says why
            return

    async def _beat(self, outgoing: asyncio.Queue[Any]) -> None:
        """Notice a peer that is silent although its connection is up, such as a stopped process."""
        for nonce in itertools.count():
            await asyncio.sleep(self._settings.heartbeat_seconds)
            self._silent_beats += 1
            if self._silent_beats > self._settings.heartbeat_misses:
                raise TimeoutError(f"silent for {self._settings.heartbeat_misses} heartbeats")
            outgoing.put_nowait(self._request(heartbeat=common.Heartbeat(nonce=nonce)))

    async def _read(self, call: Any) -> None:
        while (message := await call.read()) is not grpc.aio.EOF:
            self._silent_beats = 0
            match message.WhichOneof("message"):
                case "reply":
                    self._settle(message.reply)
                case "goodbye":
                    self._log.info("peer says goodbye", reason=message.goodbye.reason)
                    self._connected = False
                    self._tell()
                case "heartbeat":
                    pass
                case "channel":
                    self._settle_channel(message.channel)
                case "chunk":
                    self._forward(message.chunk)
                case _:
                    raise ProtocolError(f"the {self.role} sent a message that this version does not know")
            if not self._connected and not self._awaited:
                return

    def _settle(self, message: Any) -> None:
        """Hand a reply to whoever awaits it; one that nobody awaits any more is dropped."""
        self.state = read_state(message.state)
        if message.HasField("channel_fault"):
            fault = read_fault(message.channel_fault)
            for hear in list(self.on_fault):
                hear(fault)
        if message.step_id in self._overdue:
            self._overdue.discard(message.step_id)
            self._came.set()
            self._tell()
        waiter = self._awaited.get(message.step_id)
        if waiter is not None and not waiter.done():
            waiter.set_result(self._read_reply(message))
        self._awaited.pop(message.step_id, None)

    def _settle_channel(self, message: common.ChannelResponse) -> None:
        waiter = self._channel_answers.get(message.request_id)
        if waiter is None or waiter.done():
            return
        try:
            waiter.set_result(read_channel_answer(message))
        except ChannelError as error:
            waiter.set_exception(error)

    def _forward(self, chunk: common.PayloadChunk) -> None:
        """A piece of a payload on an inline channel came. Only drafters send any."""
        raise ProtocolError(f"the {self.role} sent a payload")

    def _tell(self) -> None:
        for hear in list(self.on_change):
            hear()

    def _open(self, channel: grpc.aio.Channel) -> Any:
        raise NotImplementedError

    async def _before_use(self, channel: grpc.aio.Channel) -> None:
        """What must be known of the service before its first step."""

    def _results(self, reply: Reply) -> Sequence[object]:
        raise NotImplementedError


def _options(settings: CoordinatorSettings) -> list[tuple[str, int]]:
    limit = settings.max_message_mib * MIB
    return [
        ("grpc.max_receive_message_length", limit),
        ("grpc.max_send_message_length", limit),
        ("grpc.use_local_subchannel_pool", 1),  # a connection of its own, not one shared with an earlier channel
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]


async def _why(call: Any) -> str:
    """Why a stream ended. One that is still open is left by this side, after a goodbye."""
    if not call.done():
        return "it said goodbye"
    return f"{(await call.code()).name}: {await call.details()}"


def _short(error: BaseException) -> str:
    if isinstance(error, grpc.RpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
