"""A lane: the requests that draft and verify together. The paper's "batch"; two lanes are its whole trick.

Each service runs its steps one at a time, so while this lane verifies, another one drafts. Nothing here knows about
other lanes: alternation is what two of these loops do to two FIFO services.

The items of a step are built right before the port is called, with no suspension in between, and only for requests that
are still alive. So a sequence that was released is never opened again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from coordinator.admission import Admission
from coordinator.chooser import Chooser
from coordinator.ports import DraftPort, VerifyPort
from coordinator.request import CacheView, Request
from coordinator.round import Round
from coordinator.shares import complete, shares
from coordinator.site import Members, Site
from coordinator.timeline import Timeline
from minedraft.errors import InternalError, MinedraftError, PeerUnavailable
from minedraft.telemetry.activity import Role, VerifierActivity
from minedraft.types import DraftItem, ItemStatus, Proposal, Verdict, VerifyItem

CROWDED_PAUSE_SECONDS: Final = 0.05
RETRY_PAUSE_SECONDS: Final = 0.05
DECIDE_SECONDS: Final = 0.001  # into a round: its first step is on its way, and a model at work waits for nothing


@dataclass(frozen=True, slots=True)
class Rounds:
    """What the lanes of a verifier share."""

    admission: Admission
    site: Site
    activity: VerifierActivity
    timeline: Timeline
    chooser: Chooser  # of K and of the number of lanes
    prefill_chunk: int  # prompt tokens in a step at most
    commit: Callable[[Request, VerifyItem, Verdict], None]
    fail: Callable[[Request, MinedraftError], None]

    def shares(
        self, requests: Sequence[Request], cache: Callable[[Request], CacheView], generation: int
    ) -> dict[Request, int]:
        """How many tail tokens each request may send in a step, by `coordinator.shares`."""
        return shares(requests, cache, generation, budget=self.prefill_chunk, always=self.chooser.most_draft_tokens + 1)

    @property
    def verifier(self) -> VerifyPort:
        return self.site.verifier

    def begin(self, members: Members, requests: Sequence[Request]) -> Round:
        """Note a lane's next round, and let the chooser choose for it."""
        loop = asyncio.get_running_loop()
        for request in requests:
            request.meet(self.verifier, members.drafter)
            if request.trace is not None:
                request.trace.begin_round(members.lane)
        drafters = [lane.drafter for lane in self.site.lanes]
        asked = [drafter for drafter in drafters if drafter and drafter.ready]
        newest = max((drafter.generation for drafter in asked), default=0)
        selective = bool(asked) and all(drafter.estimates_chances for drafter in asked)
        running, now = self.site.running, loop.time()
        current = self.chooser.begin(members.lane, requests, running, newest, now, selective=selective)
        if self.chooser.due:
            loop.call_later(DECIDE_SECONDS, self.chooser.decide)
        self.site.spread(self.chooser.mode.lanes)
        return current


async def run(members: Members, rounds: Rounds) -> None:
    """Draft, verify, commit, until the verifier is gone for good. Cancelling the task ends the lane as well."""
    while requests := await rounds.admission.at_boundary(members):
        generation = rounds.verifier.generation
        try:
            current = rounds.begin(members, requests)
            proposals = await _draft(current, members.drafter, requests, rounds)
            await _verify(current, [request for request in requests if not request.dead], proposals, rounds)
            rounds.chooser.end(current, asyncio.get_running_loop().time())
        except PeerUnavailable:  # nothing was committed; the same items are built again, here or elsewhere
            if rounds.verifier.ready and rounds.verifier.generation == generation:
                await asyncio.sleep(RETRY_PAUSE_SECONDS)
        except Exception as error:  # the lane outlives whatever one round does
            structlog.get_logger().exception("round failed", lane=members.lane)
            for request in requests:
                rounds.fail(request, InternalError(f"a round of lane {members.lane} failed: {type(error).__name__}"))


async def _draft(
    current: Round, drafter: DraftPort | None, requests: Sequence[Request], rounds: Rounds
) -> dict[int, Proposal]:
    """Proposals by sequence id. A drafter that is late or gone costs speed, never the round."""
    if drafter is None or not drafter.ready or not rounds.verifier.ready:
        return {}
    generation = drafter.generation
    asked = _draft_items(current, requests, generation, rounds)
    if not asked:
        return {}
    try:
        reply = await drafter.draft(current.lane, generation, [item for _, item in asked])
    except PeerUnavailable:
        return {}
    rounds.activity.record(Role.DRAFTER, reply.timing)
    rounds.timeline.drafted(current.lane, drafter.address, reply)
    current.drafted([item for _, item in asked], reply.proposals, reply.timing)
    proposals = {}
    for (request, item), proposal in zip(asked, reply.proposals, strict=True):
        _confirm(request.draft_cache, generation, item, proposal)
        if proposal.status is ItemStatus.REJECTED:
            structlog.get_logger().warning("drafter refuses", request_id=request.request_id, reason=proposal.reason)
            request.max_draft_tokens = 0  # it will not change its mind: this request goes on without drafts
        elif proposal.status is ItemStatus.OK and len(proposal.token_ids) <= item.max_draft_tokens:
            proposals[request.id] = proposal
    return proposals


def _draft_items(
    current: Round, requests: Sequence[Request], generation: int, rounds: Rounds
) -> list[tuple[Request, DraftItem]]:
    """Drafts for the requests whose verification can emit; for the others the drafter's cache is filled in step."""
    emitting = complete(
        rounds.shares(requests, lambda request: request.verify_cache, rounds.verifier.generation),
        lambda request: request.verify_cache,
        rounds.verifier.generation,
    )
    most = {request: rounds.chooser.drafts(current, request) for request in requests if request.room > 1}
    wanting = [request for request, drafts in most.items() if drafts > 0]
    granted = rounds.shares(wanting, lambda request: request.draft_cache, generation)
    asked = []
    for request in wanting:
        filled = request.draft_cache.length_in(generation) == len(request.committed_ids)
        if granted[request] and (request in emitting or not filled):
            drafts = most[request] if request in emitting else 0
            least = rounds.chooser.least_chance
            asked.append((request, request.draft_item(generation, granted[request], drafts, least)))
    return asked


async def _verify(current: Round, requests: Sequence[Request], proposals: dict[int, Proposal], rounds: Rounds) -> None:
    """One verify step, and the commit of its verdicts. Raises PeerUnavailable when the verifier is gone."""
    verifier = rounds.verifier
    generation = verifier.generation
    granted = rounds.shares(requests, lambda request: request.verify_cache, generation)
    asked = [
        (request, request.verify_item(generation, share, proposals.get(request.id)))
        for request, share in granted.items()
        if share
    ]
    if not asked:
        return
    items = [item for _, item in asked]
    for request, _ in asked:
        request.in_verification = True
    try:
        reply = await verifier.verify(current.lane, generation, items)
    finally:
        for request, _ in asked:
            request.judged()
    rounds.activity.record(Role.VERIFIER, reply.timing)
    rounds.timeline.verified(current.lane, verifier.address, items, reply)
    current.verified(items, reply.timing)
    crowded = []
    for (request, item), verdict in zip(asked, reply.verdicts, strict=True):
        if not request.dead:
            _confirm(request.verify_cache, generation, item, verdict)
            drafts = len(item.proposal.token_ids) if item.proposal else 0
            if verdict.status is ItemStatus.OK and item.emit:
                rounds.chooser.judged(current, request, drafts, verdict.accepted_len)
            if request.trace is not None:
                request.trace.end_round(drafts, verdict.accepted_len, emitted=item.emit)
            _settle(request, item, verdict, rounds)
            if verdict.status is ItemStatus.NO_SPACE:
                crowded.append(request)
    if crowded and len(crowded) == len(asked):
        await _make_room(crowded[-1], generation, rounds)


def _settle(request: Request, item: VerifyItem, verdict: Verdict, rounds: Rounds) -> None:
    """Act on one verdict of a request that is alive."""
    match verdict.status:
        case ItemStatus.OK if item.emit:
            rounds.commit(request, item, verdict)
        case ItemStatus.REJECTED if item.proposal is not None:  # its drafts may be what is wrong
            structlog.get_logger().warning(
                "verifier refuses drafts", request_id=request.request_id, reason=verdict.reason
            )
            request.max_draft_tokens = 0
        case ItemStatus.REJECTED:
            rounds.fail(request, InternalError(f"the verifier refuses the request: {verdict.reason}"))
        case ItemStatus.GAP if item.base_len == 0:
            rounds.fail(request, InternalError("the verifier misses tokens before the first"))
        case _:  # a chunk was taken, or the next round resends from where the verifier says
            pass


async def _make_room(youngest: Request, generation: int, rounds: Rounds) -> None:
    """Somebody else fills the verifier and no request can go on: the youngest gives up its cache, not its tokens."""
    rounds.verifier.release(generation, [youngest.id])
    youngest.verify_cache.confirm(generation, 0)
    await asyncio.sleep(CROWDED_PAUSE_SECONDS)


def _confirm(cache: CacheView, generation: int, item: DraftItem | VerifyItem, result: Proposal | Verdict) -> None:
    """Note what the service holds: all that it was sent, or what it says when it could not take it."""
    sent_len = item.base_len + len(item.tail_token_ids)
    match result.status:
        case ItemStatus.OK:
            cache.confirm(generation, sent_len)
        case ItemStatus.GAP:
            cache.confirm(generation, min(result.cached_len, max(item.base_len - 1, 0)))
        case ItemStatus.NO_SPACE | ItemStatus.REJECTED:
            cache.confirm(generation, min(result.cached_len, item.base_len))
