"""A lane: the requests that draft and verify together. The paper's "batch"; two lanes are its whole trick.

Each service runs its steps one at a time, so while this lane verifies, another one drafts. Nothing here knows about
other lanes: alternation is what two of these loops do to two FIFO services.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from coordinator.admission import Admission, Members
from coordinator.ports import DraftPort, VerifyPort
from coordinator.request import CacheView, Request
from minedraft.errors import InternalError, MinedraftError, PeerUnavailable
from minedraft.telemetry.activity import ActivityLog, Role
from minedraft.types import ItemStatus, Proposal, Verdict, VerifyItem

CROWDED_PAUSE_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class Rounds:
    """What every lane of a server shares."""

    admission: Admission
    drafter: DraftPort | None
    verifier: VerifyPort
    activity: ActivityLog
    draft_tokens: int  # K
    prefill_chunk: int  # prompt tokens in a step at most
    commit: Callable[[Request, VerifyItem, Verdict], None]
    fail: Callable[[Request, MinedraftError], None]


async def run(members: Members, rounds: Rounds) -> None:
    """Draft, verify, commit, for ever. Cancelling the task ends the lane."""
    while True:
        requests = await rounds.admission.at_boundary(members)
        try:
            proposals = await _draft(members.lane, requests, rounds)
            await _verify(members.lane, [request for request in requests if not request.dead], proposals, rounds)
        except PeerUnavailable:
            await rounds.verifier.wait_ready()  # nothing was committed; the same items are built again
        except Exception as error:  # the lane outlives whatever one round does
            structlog.get_logger().exception("round failed", lane=members.lane)
            for request in requests:
                if not request.dead:
                    rounds.fail(request, InternalError(f"a round of lane {members.lane} failed: {error}"))


async def _draft(lane: int, requests: Sequence[Request], rounds: Rounds) -> dict[int, Proposal]:
    """Proposals by sequence id. A drafter that is late or gone costs speed, never the round."""
    drafter = rounds.drafter
    if drafter is None or not drafter.ready or rounds.draft_tokens == 0:
        return {}
    generation = drafter.generation
    wanting = [request for request in requests if request.max_draft_tokens > 0 and request.room > 1]
    verifiable = _verifiable(requests, rounds)
    shares = _shares(wanting, lambda request: request.draft_cache, generation, rounds)
    asked = [
        (request, request.draft_item(generation, shares[request], rounds.draft_tokens if request in verifiable else 0))
        for request in wanting
        if shares[request]
    ]
    if not asked:
        return {}
    try:
        reply = await drafter.draft(lane, generation, [item for _, item in asked])
    except PeerUnavailable:
        return {}
    rounds.activity.record(Role.DRAFTER, reply.timing)
    proposals = {}
    for (request, item), proposal in zip(asked, reply.proposals, strict=True):
        _confirm(request.draft_cache, generation, item.base_len + len(item.tail_token_ids), proposal)
        if proposal.status is ItemStatus.REJECTED:
            structlog.get_logger().warning("drafter refuses", request_id=request.request_id, reason=proposal.reason)
            request.max_draft_tokens = 0  # it will not change its mind: this request goes on without drafts
        elif proposal.status is ItemStatus.OK and len(proposal.token_ids) <= item.max_draft_tokens:
            proposals[request.id] = proposal
    return proposals


async def _verify(lane: int, requests: Sequence[Request], proposals: dict[int, Proposal], rounds: Rounds) -> None:
    """One verify step, and the commit of its verdicts. Raises PeerUnavailable when the verifier is gone."""
    verifier = rounds.verifier
    generation = verifier.generation
    shares = _shares(requests, lambda request: request.verify_cache, generation, rounds)
    asked = [
        (request, request.verify_item(generation, shares[request], proposals.get(request.id)))
        for request in requests
        if shares[request]
    ]
    if not asked:
        return
    reply = await verifier.verify(lane, generation, [item for _, item in asked])
    rounds.activity.record(Role.VERIFIER, reply.timing)
    crowded = []
    for (request, item), verdict in zip(asked, reply.verdicts, strict=True):
        if request.dead:
            continue
        _confirm(request.verify_cache, generation, item.base_len + len(item.tail_token_ids), verdict)
        if verdict.status is ItemStatus.REJECTED:
            rounds.fail(request, InternalError(f"the verifier refuses the request: {verdict.reason}"))
        elif verdict.status is ItemStatus.NO_SPACE:
            crowded.append(request)
        elif verdict.status is ItemStatus.OK and item.emit:
            rounds.commit(request, item, verdict)
    if crowded and len(crowded) == len(asked):
        await _make_room(crowded[-1], generation, rounds)


async def _make_room(youngest: Request, generation: int, rounds: Rounds) -> None:
    """Somebody else fills the verifier and no request can go on: the youngest gives up its cache, not its tokens."""
    rounds.verifier.release(generation, [youngest.id])
    youngest.verify_cache.confirm(generation, 0)
    await asyncio.sleep(CROWDED_PAUSE_SECONDS)


def _confirm(cache: CacheView, generation: int, sent_len: int, result: Proposal | Verdict) -> None:
    """Note what the service holds: all that it was sent, or what it says when it could not take it."""
    length = sent_len if result.status is ItemStatus.OK else min(result.cached_len, sent_len)
    cache.confirm(generation, length)


def _verifiable(requests: Sequence[Request], rounds: Rounds) -> set[Request]:
    """The requests whose committed tokens the verifier can finish in this round: only they get drafts."""
    generation = rounds.verifier.generation
    shares = _shares(requests, lambda request: request.verify_cache, generation, rounds)
    return {request for request in requests if shares[request] >= request.tail_len(request.verify_cache, generation)}


def _shares(
    requests: Sequence[Request], cache: Callable[[Request], CacheView], generation: int, rounds: Rounds
) -> dict[Request, int]:
    """How many tail tokens each request may send in this step; 0 leaves it out.

    Sequences in the midst of decoding always go on: their tails are no longer than a round emits. Longer tails, which
    are prompts and caches to be filled again, share the step's budget in order.
    """
    budget = rounds.prefill_chunk
    shares = {}
    for request in requests:
        wanted = request.tail_len(cache(request), generation)
        if wanted <= rounds.draft_tokens + 1:
            shares[request] = wanted
        else:
            shares[request] = min(wanted, budget)
            budget -= shares[request]
    return shares
