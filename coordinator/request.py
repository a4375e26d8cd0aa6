"""A request while it runs: its committed tokens, which live here and nowhere else, and what the services confirmed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from coordinator.acceptance import OwnAcceptance
from coordinator.ports import DraftPort, Port, VerifyPort
from coordinator.text import TextStream
from minedraft.errors import MinedraftError
from minedraft.generation import FinishReason, Output, SpeculationStats, Usage
from minedraft.types import DraftItem, Proposal, SequenceParams, TokenLogprobs, VerifyItem

if TYPE_CHECKING:
    from minedraft.telemetry.tracing import RequestTrace

WAKE_SECONDS: Final = 0.001


@dataclass(slots=True)
class CacheView:
    """How many committed tokens a service confirmed, and under which connection; another connection holds none."""

    generation: int = 0
    length: int = 0

    def length_in(self, generation: int) -> int:
        return self.length if generation == self.generation else 0

    def confirm(self, generation: int, length: int) -> None:
        self.generation, self.length = generation, length


class Tally:
    """Speculation counts that grow. Mutated by `add` only."""

    def __init__(self) -> None:
        self.rounds = self.drafted_rounds = self.draft_tokens = self.accepted_tokens = self.emitted_tokens = 0
        self._drafted: list[int] = []
        self._accepted: list[int] = []

    def add(self, drafted: int, accepted: int, emitted: int) -> None:
        """Count one verification that emitted tokens."""
        self.rounds += 1
        self.drafted_rounds += drafted > 0
        self.draft_tokens += drafted
        self.accepted_tokens += accepted
        self.emitted_tokens += emitted
        for counts, length in ((self._drafted, drafted), (self._accepted, accepted)):
            counts.extend([0] * (length - len(counts)))
            for place in range(length):
                counts[place] += 1

    def stats(self) -> SpeculationStats:
        accepted = self._accepted + [0] * (len(self._drafted) - len(self._accepted))
        return SpeculationStats(
            rounds=self.rounds,
            drafted_rounds=self.drafted_rounds,
            draft_tokens=self.draft_tokens,
            accepted_tokens=self.accepted_tokens,
            accepted_by_position=tuple(accepted),
            drafted_by_position=tuple(self._drafted),
            emitted_tokens=self.emitted_tokens,
        )


class Sink:
    """Output on its way to the client. Pieces that a slow client has not taken yet are merged, so memory stays bounded.

    Written by the lane, read by the one call that serves the client.
    """

    def __init__(self, request_id: str) -> None:
        self._request_id = request_id
        self._pieces: list[Output] = []
        self._end: Output | MinedraftError | None = None
        self._changed = asyncio.Event()

    def put(self, text: str, token_ids: tuple[int, ...], logprobs: tuple[TokenLogprobs, ...]) -> None:
        self._pieces.append(Output(self._request_id, text, token_ids, logprobs))
        self._wake()

    def end(self, last: Output | MinedraftError) -> None:
        """Say how it ended; later calls are ignored."""
        if self._end is None:
            self._end = last
            self._wake()

    def _wake(self) -> None:
        """Wake the client's call a moment later: the lane's next step goes out first, and a model waits for that."""
        asyncio.get_running_loop().call_later(WAKE_SECONDS, self._changed.set)

    @property
    def ending(self) -> str:
        """How the request ended, for logs."""
        if self._end is None:
            return "cancelled"
        return (
            self._end.finish_reason.name.lower()
            if isinstance(self._end, Output) and self._end.finish_reason
            else (type(self._end).__name__)
        )

    @property
    def failed(self) -> bool:
        return isinstance(self._end, MinedraftError)

    async def take(self) -> tuple[Output | None, bool]:
        """(all that waits merged into one piece, whether it was the last). Raises the error that ended the request."""
        await self._changed.wait()
        self._changed.clear()
        pieces, self._pieces = self._pieces, []
        if isinstance(self._end, MinedraftError):
            raise self._end
        ended = self._end is not None
        if self._end is not None:
            pieces.append(self._end)
        return (Output.merged(pieces) if pieces else None), ended


@dataclass(slots=True, eq=False)
class Request:
    """One generation. Mutable; changed by its lane and by admission, all on the event loop."""

    id: int  # the sequence id at both services
    request_id: str  # the client's name for it
    params: SequenceParams
    committed_ids: list[int]  # prompt and output
    max_draft_tokens: int
    max_len: int  # prompt and output together at most
    longest: int  # tokens that prompt and output can come to
    text: TextStream
    sink: Sink
    draft_cache: CacheView = field(default_factory=CacheView)
    verify_cache: CacheView = field(default_factory=CacheView)
    tally: Tally = field(default_factory=Tally)
    acceptance: OwnAcceptance = field(default_factory=OwnAcceptance)
    dead: bool = False  # finished, cancelled or failed: in no further step
    verifier: VerifyPort | None = None  # who it met last, and may hold a cache of it
    drafter: DraftPort | None = None
    in_verification: bool = False  # the verifier may be reading its drafts where the drafter wrote them
    trace: RequestTrace | None = None  # None unless it is sampled

    @property
    def prompt_len(self) -> int:
        return self.params.prompt_len

    @property
    def new_tokens(self) -> int:
        return len(self.committed_ids) - self.params.prompt_len

    @property
    def room(self) -> int:
        """New tokens that may still be committed."""
        wanted = self.params.sampling.max_new_tokens - self.new_tokens
        return min(wanted, self.max_len - len(self.committed_ids))

    def meet(self, verifier: VerifyPort, drafter: DraftPort | None) -> None:
        """Note who serves it in this round. Whoever served it before, and does not now, may forget it."""
        if self.verifier is not verifier:
            _leave(self.verifier, self.id)
            self.verifier, self.verify_cache = verifier, CacheView()
        if self.drafter is not drafter:
            _leave(self.drafter, self.id)
            self.drafter, self.draft_cache = drafter, CacheView()

    def part(self) -> None:
        """It is over: free it at both services, behind the steps already sent. While it is verified the drafter must
        keep it, or another sequence's drafts would be written over those that the verifier reads."""
        self.dead = True
        _leave(self.verifier, self.id)
        if not self.in_verification:
            _leave(self.drafter, self.id)

    def judged(self) -> None:
        """Its verification is over, however it ended."""
        self.in_verification = False
        if self.dead:
            _leave(self.drafter, self.id)

    def draft_item(self, generation: int, share: int, most_drafts: int, least_chance: float = 0.0) -> DraftItem:
        """At most `share` tail tokens, and drafts, of a least chance each, only if they reach the end of the committed
        tokens."""
        base, tail = self._tail(self.draft_cache, generation, share)
        complete = base + len(tail) == len(self.committed_ids)
        drafts = min(most_drafts, self.max_draft_tokens, self.room - 1) if complete else 0
        params = self.params if base == 0 else None
        return DraftItem(self.id, base, tail, params, max(drafts, 0), least_chance, self._traceparent)

    def verify_item(self, generation: int, share: int, proposal: Proposal | None) -> VerifyItem:
        """At most `share` tail tokens; the proposal goes with them if they reach the end of the committed tokens."""
        base, tail = self._tail(self.verify_cache, generation, share)
        emit = base + len(tail) == len(self.committed_ids)
        drafts = proposal if emit and proposal is not None and proposal.token_ids else None
        return VerifyItem(self.id, base, tail, self.params if base == 0 else None, drafts, emit, self._traceparent)

    def tail_len(self, cache: CacheView, generation: int) -> int:
        """Committed tokens that the service must still be sent, at least one."""
        return max(len(self.committed_ids) - cache.length_in(generation), 1)

    def finish(
        self, reason: FinishReason, text: str, token_ids: tuple[int, ...], logs: tuple[TokenLogprobs, ...]
    ) -> None:
        """Tell the client the last piece."""
        usage = Usage(self.prompt_len, self.new_tokens)
        self.sink.end(Output(self.request_id, text, token_ids, logs, reason, usage, self.tally.stats()))

    @property
    def _traceparent(self) -> str:
        return self.trace.traceparent if self.trace is not None else ""

    def _tail(self, cache: CacheView, generation: int, share: int) -> tuple[int, tuple[int, ...]]:
        base = min(cache.length_in(generation), len(self.committed_ids) - 1)  # a tail has at least one token
        return base, tuple(self.committed_ids[base : base + share])


def _leave(port: Port | None, sequence_id: int) -> None:
    if port is not None:
        port.release(port.generation, [sequence_id])
