"""The coordinator's side of a model stream against a drafter whose every word the test says, over loopback gRPC."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from coordinator.peers import DraftPeer, Served, VerifyPeer
from minedraft.config import CoordinatorSettings
from minedraft.errors import PeerUnavailable
from minedraft.rpc.convert import write_model
from minedraft.types import DraftItem, DraftReply, ModelInfo
from minedraft.v1 import common_pb2 as common
from minedraft.v1 import drafter_pb2 as pb
from minedraft.v1 import drafter_pb2_grpc as pb_grpc
from tests.refused import RefusedCall

ITEM = DraftItem(1, 3, (7,), None, 2)
SOON = 20.0  # seconds in which what must happen does happen


def model(fingerprint: str = "", vocab_size: int = 100) -> ModelInfo:
    return ModelInfo("scripted", "none", vocab_size, fingerprint, 64, 16, 8, "float32", "cpu", "none")


def reply(step_id: int, *sequence_ids: int) -> pb.DraftResponse:
    proposals = [common.Proposal(sequence_id=number, status=common.ITEM_STATUS_OK) for number in sequence_ids]
    return pb.DraftResponse(reply=pb.DraftReply(step_id=step_id, proposals=proposals))


class Stream:
    """One stream that the peer opened."""

    def __init__(self, requests: AsyncIterator[pb.DraftRequest], context: Any) -> None:
        self._requests = requests
        self._context = context
        self.closing = asyncio.Event()

    async def write(self, message: pb.DraftResponse) -> None:
        await self._context.write(message)

    async def welcome(self, info: ModelInfo | None = None) -> None:
        await self.write(pb.DraftResponse(welcome=common.Welcome(model=write_model(info or model()))))

    async def read(self, *, heartbeats: bool = False) -> pb.DraftRequest:
        """The next message; heartbeats are skipped unless wanted. Raises StopAsyncIteration when the peer is done."""
        while True:
            async with asyncio.timeout(SOON):
                message = await anext(self._requests)
            if heartbeats or message.WhichOneof("message") != "heartbeat":
                return message

    async def step_id(self) -> int:
        message = await self.read()
        assert message.WhichOneof("message") == "step"
        return message.step.step_id

    def close(self) -> None:
        self.closing.set()


class Script(pb_grpc.DrafterServiceServicer):
    """A drafter without a mind of its own."""

    def __init__(self) -> None:
        self.opened: asyncio.Queue[Stream] = asyncio.Queue()
        self.ended = 0

    async def Draft(self, request_iterator: AsyncIterator[pb.DraftRequest], context: Any) -> None:  # noqa: N802
        stream = Stream(request_iterator, context)
        self.opened.put_nowait(stream)
        try:
            await stream.closing.wait()
        finally:
            self.ended += 1

    async def stream(self) -> Stream:
        """The next stream that is opened."""
        async with asyncio.timeout(SOON):
            return await self.opened.get()


@asynccontextmanager
async def scripted(target: ModelInfo | None = None, **settings: Any) -> AsyncIterator[tuple[DraftPeer, Script]]:
    server, script = grpc.aio.server(), Script()
    pb_grpc.add_DrafterServiceServicer_to_server(script, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    told = CoordinatorSettings(**({"heartbeat_seconds": 10.0} | settings))
    peer = DraftPeer(f"127.0.0.1:{port}", told, itertools.count(1), Served(target))
    peer.start()
    try:
        yield peer, script
    finally:
        await peer.stop()
        await server.stop(None)


async def until(condition: Any) -> None:
    async with asyncio.timeout(SOON):
        while not condition():
            await asyncio.sleep(0.002)


async def ready(peer: DraftPeer) -> None:
    async with asyncio.timeout(SOON):
        await peer.wait_ready()


def drafting(peer: DraftPeer) -> asyncio.Task[DraftReply]:
    return asyncio.create_task(peer.draft(0, peer.generation, [ITEM], ""))


async def test_nothing_is_sent_before_the_welcome() -> None:
    async with scripted() as (peer, script):
        stream = await script.stream()
        assert (peer.generation, peer.ready, peer.connected, peer.info) == (0, False, False, None)
        with pytest.raises(PeerUnavailable, match=r"drafter at .* is not connected"):
            await peer.draft(0, 0, [ITEM], "")
        await stream.welcome()
        await ready(peer)
        assert peer.generation == 1
        described = peer.describe()
        assert (described.connected, described.connections, described.refusal) == (True, 1, "")
        assert described.model == model()


async def test_steps_and_releases_keep_the_order_in_which_they_were_called() -> None:
    async with scripted() as (peer, script):
        stream = await script.stream()
        await stream.welcome()
        await ready(peer)
        first = drafting(peer)
        await asyncio.sleep(0)
        peer.release(1, [1, 2])
        second = drafting(peer)
        await asyncio.sleep(0)
        peer.release(1, [])  # nothing to say
        peer.release(0, [3])  # of another connection
        peer.release(1, [4])
        messages = [await stream.read() for _ in range(4)]
        kinds = [message.WhichOneof("message") for message in messages]
        assert kinds == ["step", "release", "step", "release"]
        assert list(messages[1].release.sequence_ids) == [1, 2]
        assert list(messages[3].release.sequence_ids) == [4]
        for message in (messages[2], messages[0]):  # the answers may come in any order
            await stream.write(reply(message.step.step_id, 1))
        assert (await first).step_id == messages[0].step.step_id
        assert (await second).step_id == messages[2].step.step_id


async def test_a_late_answer_is_not_awaited_and_not_believed() -> None:
    async with scripted(draft_timeout_seconds=0.05) as (peer, script):
        stream = await script.stream()
        await stream.welcome()
        await ready(peer)
        with pytest.raises(PeerUnavailable, match=r"took over 0\.05 s"):
            await peer.draft(0, 1, [ITEM], "")
        late = await stream.step_id()
        assert not peer.ready  # a further step would only queue up behind the late one
        assert peer.connected
        with pytest.raises(PeerUnavailable):
            await peer.draft(0, 1, [ITEM], "")
        await stream.write(reply(late, 1))
        await ready(peer)
        peer._settings = peer._settings.model_copy(update={"draft_timeout_seconds": SOON})
        again = drafting(peer)
        step_id = await stream.step_id()
        assert step_id != late
        await stream.write(reply(late, 1))  # once more, to no effect
        await stream.write(reply(step_id, 1))
        assert (await again).step_id == step_id


async def test_a_lost_stream_fails_its_steps_and_a_new_generation_begins() -> None:
    async with scripted() as (peer, script):
        stream = await script.stream()
        await stream.welcome()
        await ready(peer)
        waiting = drafting(peer)
        old = await stream.step_id()
        stream.close()
        with pytest.raises(PeerUnavailable, match="went away"):
            await waiting
        stream = await script.stream()
        assert not peer.ready
        await stream.welcome(model(vocab_size=99))
        await ready(peer)
        assert peer.generation == 2
        assert peer.info == model(vocab_size=99)
        with pytest.raises(PeerUnavailable):
            await peer.draft(0, 1, [ITEM], "")  # built for what the old connection had cached
        peer.release(1, [1])
        again = drafting(peer)
        step_id = await stream.step_id()  # neither the old step nor the old release came first
        await stream.write(reply(old, 1))
        await stream.write(reply(step_id, 1))
        assert (await again).step_id == step_id


async def test_a_stream_that_ends_while_messages_are_written_is_reopened_every_time() -> None:
    async with scripted(heartbeat_seconds=0.0002, heartbeat_misses=10**6) as (peer, script):
        for generation in range(1, 11):
            stream = await script.stream()
            await stream.welcome()
            await until(lambda wanted=generation: peer.generation == wanted)
            for _ in range(generation % 3):
                await stream.read(heartbeats=True)
            stream.close()


async def test_a_silent_peer_is_given_up() -> None:
    async with scripted(heartbeat_seconds=0.02, heartbeat_misses=3) as (peer, script):
        stream = await script.stream()
        await stream.welcome()
        await ready(peer)
        for _ in range(10):  # longer than it may be silent
            beat = await stream.read(heartbeats=True)
            await stream.write(pb.DraftResponse(heartbeat=beat.heartbeat))
        assert peer.generation == 1
        waiting = drafting(peer)
        with pytest.raises(PeerUnavailable, match="went away"):
            await waiting
        stream = await script.stream()
        await stream.welcome()
        await until(lambda: peer.generation == 2)


async def test_after_a_goodbye_what_was_asked_is_answered_and_the_stream_is_closed() -> None:
    async with scripted() as (peer, script):
        stream = await script.stream()
        await stream.welcome()
        await ready(peer)
        waiting = drafting(peer)
        step_id = await stream.step_id()
        await stream.write(pb.DraftResponse(goodbye=common.Goodbye(reason="leaving")))
        await until(lambda: not peer.ready)
        with pytest.raises(PeerUnavailable):
            await peer.draft(0, 1, [ITEM], "")
        await stream.write(reply(step_id, 1))
        assert (await waiting).step_id == step_id
        await until(lambda: script.ended == 1)  # by the peer: this drafter's grace lasts for ever
        await (await script.stream()).welcome()
        await ready(peer)
        assert peer.generation == 2


async def test_after_a_goodbye_an_idle_stream_is_closed_at_once() -> None:
    async with scripted() as (peer, script):
        stream = await script.stream()
        await stream.welcome()
        await ready(peer)
        await stream.write(pb.DraftResponse(goodbye=common.Goodbye(reason="leaving")))
        await until(lambda: script.ended == 1)


@pytest.mark.parametrize("results", [(), (1, 2)])
async def test_an_incomplete_answer_is_no_answer(results: tuple[int, ...]) -> None:
    async with scripted() as (peer, script):
        stream = await script.stream()
        await stream.welcome()
        await ready(peer)
        waiting = drafting(peer)
        await stream.write(reply(await stream.step_id(), *results))
        with pytest.raises(PeerUnavailable, match="answered a step of 1 items incompletely"):
            await waiting


@pytest.mark.parametrize(
    "nonsense",
    [
        pb.DraftResponse(),
        pb.DraftResponse(welcome=common.Welcome()),
        pb.DraftResponse(reply=pb.DraftReply(step_id=1, proposals=[common.Proposal()])),  # without a status
    ],
    ids=["empty", "second welcome", "no status"],
)
async def test_a_peer_that_makes_no_sense_is_left_and_called_again(nonsense: pb.DraftResponse) -> None:
    async with scripted() as (peer, script):
        await (await script.stream()).write(reply(1))  # no welcome
        stream = await script.stream()
        assert peer.generation == 0
        await stream.welcome()
        await ready(peer)
        waiting = drafting(peer)
        assert await stream.step_id() == 1
        await stream.write(nonsense)
        with pytest.raises(PeerUnavailable, match="went away"):
            await waiting
        await (await script.stream()).welcome()
        await ready(peer)
        assert peer.generation == 2


@pytest.mark.parametrize(
    ("drafter", "reason"),
    [
        (model("words"), ""),
        (model(""), ""),  # an n-gram drafter takes any tokens
        (model("words", 99), ""),
        (model("other"), "the tokenizer of scripted is not that of scripted"),
        (model("words", 101), "scripted has 101 tokens, scripted only 100"),
    ],
)
async def test_a_drafter_of_other_words_is_refused(drafter: ModelInfo, reason: str) -> None:
    async with scripted(target=model("words")) as (peer, script):
        await (await script.stream()).welcome(drafter)
        await until(lambda: peer.generation == 1)
        described = peer.describe()
        assert described.refusal.startswith(reason)
        assert bool(described.refusal) == bool(reason)
        assert peer.ready == peer.connected == described.connected == (not reason)
        if reason:
            with pytest.raises(PeerUnavailable):
                await peer.draft(0, 1, [ITEM], "")


def test_a_verifier_of_another_target_is_refused() -> None:
    served = Served(model("words"))
    verifier = VerifyPeer("127.0.0.1:1", CoordinatorSettings(), itertools.count(1), served)
    assert verifier.refusal == ""
    for other, name in ((model("other"), "tokenizer_fingerprint"), (model("words", 99), "vocab_size")):
        verifier.info = other
        assert verifier.refusal.startswith(f"it serves another {name} than scripted")
    verifier.info = model("words")
    assert verifier.refusal == ""


async def test_a_peer_stops_in_the_moment_of_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    peer = VerifyPeer("127.0.0.1:1", CoordinatorSettings(), itertools.count(1), Served())
    call = RefusedCall()
    monkeypatch.setattr(peer, "_open", lambda _: call)
    peer.start()
    await call.awaited.wait()
    async with asyncio.timeout(SOON):
        await peer.stop()
