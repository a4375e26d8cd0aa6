"""Model services as functions of what a step is fed: ports that take time on the loop's clock and nothing else.

Each service runs its steps one at a time in the order of arrival, as the real ones do; a step takes what its law says
for its items, drafts and tokens, plus a round trip. A draft is right by a coin of its sequence and place, so the same
request meets the same luck whatever is drafted. On a virtual clock hours pass in seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from coordinator import lane
from coordinator.admission import Admission
from coordinator.chooser import Chooser
from coordinator.request import Request, Sink
from coordinator.site import Site
from coordinator.text import TargetText, TextStream
from coordinator.timeline import Timeline
from minedraft.errors import MinedraftError
from minedraft.generation import PeerInfo
from minedraft.model.byte_tokenizer import byte_tokenizer
from minedraft.telemetry.activity import ActivityLog
from minedraft.types import (
    AcceptanceRule,
    DraftItem,
    DraftReply,
    ModelInfo,
    PointMass,
    Proposal,
    SamplingParams,
    SequenceParams,
    ServiceState,
    StepTiming,
    Verdict,
    VerifyItem,
    VerifyReply,
)

TOKEN = 50
STATE = ServiceState("timed", 1 << 20, 0)
Accept = Callable[[float], float]  # chance that a draft is right, by time


@dataclass(frozen=True)
class Devices:
    """Seconds of a draft step of (items, passes, drafts, tokens fed), of a verification of (items, tokens), of a trip.

    `shared`: how much slower each service is while the other one works, as on cores that both use; 0 for not at all.
    `spread`: each draft has a chance of its own, which the drafter knows: see `chance_of`.
    """

    draft: Callable[[int, int, int, int], float]
    verify: Callable[[int, int], float]
    round_trip: float = 0.0
    shared: float = 0.0
    spread: bool = False


class TimedPort:
    """A service that is never gone. `other` is the one that it may share cores with."""

    generation = 1
    ready = True
    info: ModelInfo | None = None
    free_blocks = 1 << 20

    def __init__(self, devices: Devices) -> None:
        self.devices = devices
        self.steps = 0
        self.items = 0  # of verify steps
        self.address = "timed:1"
        self.busy = 0.0
        self.other: TimedPort | None = None
        self._free_at = 0.0
        self._cached: dict[int, int] = {}

    def describe(self) -> PeerInfo:
        return PeerInfo("timed:1", True, None, "", STATE, 1)

    async def wait_ready(self) -> None:
        return

    def release(self, generation: int, sequence_ids: Sequence[int]) -> None:
        for sequence in sequence_ids:
            self._cached.pop(sequence, None)

    def feed(self, item: DraftItem | VerifyItem, drafts: int) -> int:
        """Committed tokens that must be fed: those not cached, drafts of earlier steps among them, at least one."""
        length = item.base_len + len(item.tail_token_ids)
        held = min(self._cached.get(item.sequence_id, 0), length - 1)
        self._cached[item.sequence_id] = length + drafts
        return length - held

    async def pass_time(self, seconds: float) -> StepTiming:
        """A step of so many seconds, behind those that are queued."""
        loop = asyncio.get_running_loop()
        half = self.devices.round_trip / 2
        arrives = loop.time() + half
        begins = max(arrives, self._free_at)
        if self.other is not None and self.devices.shared:
            alongside = min(seconds, max(0.0, self.other._free_at - begins))
            seconds += alongside * self.devices.shared
        self._free_at = begins + seconds
        self.steps += 1
        self.busy += seconds
        await asyncio.sleep(self._free_at + half - loop.time())
        return StepTiming(round((begins - arrives) * 1e9), 0, round(seconds * 1e9), round(begins * 1e9))


class TimedDrafter(TimedPort):
    """A `DraftPort`."""

    @property
    def estimates_chances(self) -> bool:
        return self.devices.spread

    async def draft(self, lane: int, generation: int, items: Sequence[DraftItem]) -> DraftReply:
        lengths = [self._length(item) for item in items]
        # drafts that are looked at: one that is left out was, too
        wanted = [min(length + 1, item.max_draft_tokens) for item, length in zip(items, lengths, strict=True)]
        fed = sum(self.feed(item, max(drafts - 1, 0)) for item, drafts in zip(items, wanted, strict=True))
        timing = await self.pass_time(self.devices.draft(len(items), max(*wanted, 1), sum(wanted), fed))
        proposals = tuple(
            Proposal(item.sequence_id, (TOKEN,) * length, PointMass(), cached_len=item.base_len)
            for item, length in zip(items, lengths, strict=True)
        )
        return DraftReply(1, proposals, timing, STATE)

    def _length(self, item: DraftItem) -> int:
        """Of the proposal."""
        if not self.devices.spread:
            return item.max_draft_tokens
        length, place, through = 0, item.base_len + len(item.tail_token_ids), 1.0
        while length < item.max_draft_tokens:
            through *= chance_of(item.sequence_id, place + length)
            if through < item.least_chance:
                break
            length += 1
        return length


class TimedVerifier(TimedPort):
    """A `VerifyPort`."""

    def __init__(self, devices: Devices, accept: Accept) -> None:
        super().__init__(devices)
        self._accept = accept

    async def verify(self, lane: int, generation: int, items: Sequence[VerifyItem]) -> VerifyReply:
        self.items += len(items)
        tokens = sum(self.feed(item, _drafts(item)) + _drafts(item) for item in items)
        timing = await self.pass_time(self.devices.verify(len(items), tokens))
        chance = self._accept(asyncio.get_running_loop().time())
        verdicts = tuple(_verdict(item, None if self.devices.spread else chance) for item in items)
        return VerifyReply(1, verdicts, timing, STATE)


def _drafts(item: VerifyItem) -> int:
    return len(item.proposal.token_ids) if item.proposal else 0


def _verdict(item: VerifyItem, usual: float | None) -> Verdict:
    """`usual` is the chance of every draft, None for one of each one's own."""
    length = item.base_len + len(item.tail_token_ids)
    if not item.emit:
        return Verdict(item.sequence_id, cached_len=length)
    accepted = 0
    while accepted < _drafts(item):
        chance = chance_of(item.sequence_id, length + accepted) if usual is None else usual
        if coin(item.sequence_id, length + accepted) >= chance:
            break
        accepted += 1
    return Verdict(item.sequence_id, accepted, TOKEN, cached_len=length)


def chance_of(sequence: int, place: int) -> float:
    """A draft's own, where they differ: every other one is nearly sure."""
    return 0.95 if coin(sequence, -1 - place) < 0.5 else 0.05


def coin(sequence: int, place: int) -> float:
    """Evenly in [0, 1), the same for the same arguments: SplitMix64's finalizer."""
    mask = (1 << 64) - 1
    value = (sequence * 0x9E3779B97F4A7C15 + place * 0xD1B54A32D192ED03) & mask
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & mask
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & mask
    return ((value ^ (value >> 31)) >> 11) * 2.0**-53


class ClosedLoop:
    """Real lanes, admission and chooser before timed ports, with a fixed number of requests in flight."""

    text = TargetText(byte_tokenizer(256))

    def __init__(
        self,
        devices: Devices,
        accept: Accept,
        chooser: Chooser,
        *,
        lanes: int,
        prompt: Callable[[int], int] = lambda _: 64,
        length: Callable[[int], int] = lambda number: 96 + number * 37 % 97,
    ) -> None:
        """`prompt` and `length` give the tokens of the n-th request."""
        self.chooser = chooser
        self.tokens = 0
        self.drafter, self.verifier = TimedDrafter(devices), TimedVerifier(devices, accept)
        self.drafter.other, self.verifier.other = self.verifier, self.drafter
        self.admission = Admission(queue_size=4096)
        self._site = Site(self.verifier, 0, lanes, 4096)
        for members in self._site.lanes:
            members.drafter = self.drafter
        self.admission.open(self._site)
        self._prompt, self._length = prompt, length
        self._made = 0
        self._wanted = 0
        self._rounds = lane.Rounds(
            admission=self.admission,
            site=self._site,
            activity=ActivityLog().beside(),
            timeline=Timeline(0),
            chooser=chooser,
            prefill_chunk=512,
            commit=self._commit,
            fail=self._fail,
        )
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> ClosedLoop:
        self._tasks = [asyncio.create_task(lane.run(members, self._rounds)) for members in self._site.lanes]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def load(self, requests: int) -> None:
        """From now on so many are in flight; where they are too many, none follows those that end."""
        self._wanted = requests
        while len(self.admission.requests) < requests:
            self._submit()

    async def until(self, tokens: int) -> tuple[int, float]:
        """Run on until so many tokens were committed in all; (tokens, time) then."""
        while self.tokens < tokens:
            await asyncio.sleep(0.02)
        return self.tokens, asyncio.get_running_loop().time()

    def _submit(self) -> None:
        self._made += 1
        prompt, length = self._prompt(self._made), self._length(self._made)
        sampling = SamplingParams(temperature=0, max_new_tokens=length)
        self.admission.submit(
            Request(
                id=self._made,
                request_id=str(self._made),
                params=SequenceParams(prompt, 0, AcceptanceRule.MATCH, sampling),
                committed_ids=[TOKEN] * prompt,
                max_draft_tokens=self.chooser.most_draft_tokens,
                max_len=1 << 20,
                longest=1,
                text=TextStream(self.text, ()),
                sink=Sink(""),
            )
        )

    def _commit(self, request: Request, item: VerifyItem, verdict: Verdict) -> None:
        emitted = min(verdict.accepted_len + 1, request.room)
        request.committed_ids += (TOKEN,) * emitted
        self.tokens += emitted
        if request.room == 0:
            request.dead = True
            self.admission.remove(request)
            for port in (self.drafter, self.verifier):
                port.release(port.generation, [request.id])
            if len(self.admission.requests) < self._wanted:
                self._submit()

    def _fail(self, request: Request, error: MinedraftError) -> None:
        raise error
