"""Model services in this process: ports that cache sequences as the real ones do, check every item, and can fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

from minedraft.errors import PeerUnavailable
from minedraft.generation import PeerInfo
from minedraft.model.byte_tokenizer import EOS_ID
from minedraft.types import (
    DraftItem,
    DraftReply,
    ItemStatus,
    ModelInfo,
    PointMass,
    Proposal,
    SequenceParams,
    ServiceState,
    StepItem,
    StepTiming,
    TokenLogprobs,
    Verdict,
    VerifyItem,
    VerifyReply,
)
from tests.unit.coordinator.toy import VOCAB, guess, next_token

Trouble = Literal["die_before", "die_after", "forget", "no_space", "late", "bug"]
Item = TypeVar("Item", DraftItem, VerifyItem)
Result = TypeVar("Result", Proposal, Verdict)


@dataclass
class Cached:
    """What the service caches of one sequence."""

    params: SequenceParams
    token_ids: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Step:
    """One computed step, for the tests to look at."""

    lane: int
    items: tuple[StepItem, ...]
    begin: float
    end: float


class FakeService(Generic[Item, Result]):
    """Steps and releases go through one queue, as in a model service."""

    def __init__(
        self,
        *,
        trouble: Mapping[int, Trouble] | None = None,
        delay: Callable[[], float] = lambda: 0.01,
        down_seconds: float = 0.2,
        num_blocks: int = 10_000,
        block_size: int = 4,
        max_len: int = 512,
        number: int = 0,
    ) -> None:
        """`trouble` says what happens at the n-th step, counted from 0; `number` tells services of a kind apart."""
        self.address = f"toy:{number + 1}"
        self.generation = 1 + 1_000_000 * number  # no two of a server are the same
        self.ready = True  # connected and not late
        self._connected = True
        self.info: ModelInfo | None = ModelInfo(
            model_id="toy",
            architecture="toy",
            vocab_size=VOCAB,
            tokenizer_fingerprint="toy",
            max_len=max_len,
            block_size=block_size,
            num_blocks=num_blocks,
            dtype="float32",
            device="cpu",
            attention_backend="none",
            eos_token_ids=(EOS_ID,),
        )
        self.trouble = dict(trouble or {})
        self.max_len = max_len
        self.num_blocks = num_blocks
        self.foreign_blocks = 0  # held by somebody else
        self.sequences: dict[int, Cached] = {}
        self.faults: list[str] = []  # what an item got wrong
        self.steps: list[Step] = []
        self.started = 0
        self._block_size = block_size
        self._delay = delay
        self._down_seconds = down_seconds
        self._came = asyncio.Event()
        self._queue: asyncio.Queue[Any] = asyncio.Queue()
        self._awaited: set[asyncio.Future[tuple[Result, ...]]] = set()
        self._worker: asyncio.Task[None] | None = None

    @property
    def free_blocks(self) -> int:
        return (
            self.num_blocks - self.foreign_blocks - sum(self._blocks(len(s.token_ids)) for s in self.sequences.values())
        )

    def describe(self) -> PeerInfo:
        state = ServiceState("toy", self.free_blocks, len(self.sequences))
        return PeerInfo(self.address, self.ready, self.info, "", state, self.generation, "inline")

    async def wait_ready(self) -> None:
        while not self.ready:
            self._came.clear()
            await self._came.wait()

    def release(self, generation: int, sequence_ids: Sequence[int]) -> None:
        if generation == self.generation and self._connected:
            self._queue.put_nowait(tuple(sequence_ids))

    def start(self) -> None:
        self._worker = asyncio.create_task(self._work())

    async def stop(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
            with suppress(asyncio.CancelledError):
                await self._worker

    async def settled(self) -> None:
        """Return once nothing is queued and cached, or when that takes too long to come true."""
        for _ in range(200):
            await asyncio.sleep(0.01)
            if self.ready and self._queue.empty() and not self.sequences:
                return

    def die(self) -> None:
        """Lose the connection and all that is cached; be back under a new generation a little later."""
        self.ready = self._connected = False
        self.sequences.clear()
        self._queue = asyncio.Queue()
        for awaited in self._awaited:
            if not awaited.done():
                awaited.set_exception(PeerUnavailable("died"))
        if self._worker is not None:
            self._worker.cancel()
        asyncio.get_running_loop().call_later(self._down_seconds, self._come_back)

    def _come_back(self) -> None:
        self.generation += 1
        self.ready = self._connected = True
        self._came.set()
        self.start()

    async def _step(self, lane: int, generation: int, items: Sequence[Item]) -> tuple[Result, ...]:
        if not self.ready or generation != self.generation:
            raise PeerUnavailable("not connected")
        reply: asyncio.Future[tuple[Result, ...]] = asyncio.get_running_loop().create_future()
        self._awaited.add(reply)
        self._queue.put_nowait((lane, tuple(items), reply))
        try:
            return await reply
        finally:
            self._awaited.discard(reply)

    async def _work(self) -> None:
        while True:
            match await self._queue.get():
                case (lane, tuple() as items, asyncio.Future() as reply):
                    await self._run(lane, items, reply)
                case released:
                    for sequence_id in released:
                        self.sequences.pop(sequence_id, None)

    async def _run(self, lane: int, items: tuple[Item, ...], reply: asyncio.Future[tuple[Result, ...]]) -> None:
        trouble = self.trouble.get(self.started)
        self.started += 1
        begin = asyncio.get_running_loop().time()
        if trouble == "late":
            reply.set_exception(PeerUnavailable("late"))
            self.ready = False  # until it is done
        if trouble == "bug":
            reply.set_exception(ZeroDivisionError("a fault of the port"))
        if trouble == "die_before":
            self.die()
        await asyncio.sleep(self._delay())
        if trouble == "forget":
            self.sequences.clear()
        crowded = trouble == "no_space"
        results = tuple(self._item(item, crowded) for item in items)
        if trouble == "die_after":
            self.die()
            await asyncio.sleep(0)
        self.steps.append(Step(lane, items, begin, asyncio.get_running_loop().time()))
        if trouble == "late":
            self.ready = True
            self._came.set()
        if not reply.done():
            reply.set_result(results)

    def _item(self, item: Item, crowded: bool) -> Result:
        raise NotImplementedError

    def _reconcile(self, item: Item, drafts: int, crowded: bool) -> tuple[ItemStatus, int]:
        """Status and cached length; with OK the sequence holds all committed tokens."""
        known = self.sequences.get(item.sequence_id)
        held = len(known.token_ids) if known else 0
        if not item.tail_token_ids or item.base_len < 0:
            self.faults.append(f"an item without tail: {item}")
        if held < item.base_len:
            return ItemStatus.GAP, held
        if item.base_len == 0 and item.params is None:
            self.faults.append(f"no params: {item}")
            return ItemStatus.REJECTED, 0
        params = item.params or (known.params if known else None)
        if params is None:
            raise AssertionError("a sequence without params was opened")
        sequence: Cached = known or Cached(params)
        committed = [*sequence.token_ids[: item.base_len], *item.tail_token_ids]
        self._check(sequence.params, committed, drafts)
        others = sum(self._blocks(len(s.token_ids)) for key, s in self.sequences.items() if key != item.sequence_id)
        if crowded or self.foreign_blocks + others + self._blocks(len(committed) + drafts) > self.num_blocks:
            if known:
                del known.token_ids[item.base_len :]
            return ItemStatus.NO_SPACE, item.base_len if known else 0
        sequence.token_ids = committed
        self.sequences[item.sequence_id] = sequence
        return ItemStatus.OK, len(committed)

    def _check(self, params: SequenceParams, committed: Sequence[int], drafts: int) -> None:
        for place in range(params.prompt_len, len(committed)):
            if committed[place] != next_token(committed[:place]):
                self.faults.append(f"token {place} of {committed} is not the target's")
        longest = min(params.prompt_len + params.sampling.max_new_tokens, self.max_len)
        if len(committed) + drafts > longest - 1:
            self.faults.append(f"{len(committed)} tokens and {drafts} drafts run past {longest}")

    def _blocks(self, length: int) -> int:
        return -(-length // self._block_size)

    def _timing(self) -> StepTiming:
        step = self.steps[-1]
        return StepTiming(0, 0, round((step.end - step.begin) * 1e9), round(step.begin * 1e9))

    def _state(self) -> ServiceState:
        return ServiceState("toy", self.free_blocks, len(self.sequences))


class FakeDrafter(FakeService[DraftItem, Proposal]):
    """A `DraftPort`."""

    estimates_chances = False

    async def draft(self, lane: int, generation: int, items: Sequence[DraftItem]) -> DraftReply:
        return DraftReply(1, await self._step(lane, generation, items), self._timing(), self._state())

    def _item(self, item: DraftItem, crowded: bool) -> Proposal:
        status, cached_len = self._reconcile(item, item.max_draft_tokens, crowded)
        if status is not ItemStatus.OK:
            return Proposal(item.sequence_id, status=status, cached_len=cached_len)
        tokens = self.sequences[item.sequence_id].token_ids
        drafts: list[int] = []
        while len(drafts) < item.max_draft_tokens and len(tokens) % 11:  # now and then fewer than asked for
            drafts.append(guess(tokens))
            tokens.append(drafts[-1])
        return Proposal(item.sequence_id, tuple(drafts), PointMass(), cached_len=cached_len)


class FakeVerifier(FakeService[VerifyItem, Verdict]):
    """A `VerifyPort`."""

    async def verify(self, lane: int, generation: int, items: Sequence[VerifyItem]) -> VerifyReply:
        return VerifyReply(1, await self._step(lane, generation, items), self._timing(), self._state())

    def _item(self, item: VerifyItem, crowded: bool) -> Verdict:
        drafts = item.proposal.token_ids if item.proposal else ()
        status, cached_len = self._reconcile(item, len(drafts), crowded)
        if status is not ItemStatus.OK or not item.emit:
            return Verdict(item.sequence_id, status=status, cached_len=cached_len)
        tokens = self.sequences[item.sequence_id].token_ids
        for accepted, draft in enumerate(drafts):  # noqa: B007  # read after the loop
            if draft != next_token(tokens):
                break
            tokens.append(draft)
        else:
            accepted = len(drafts)
        emitted = (*drafts[:accepted], next_token(tokens))
        wanted = self.sequences[item.sequence_id].params.sampling.logprobs
        logprobs = tuple(TokenLogprobs(token, -1.0) for token in emitted) if wanted is not None else ()
        return Verdict(item.sequence_id, accepted, emitted[-1], logprobs, cached_len=cached_len)
