"""What a server did between two looks at it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from minedraft.cli.trace.recording import Service, service_of
from minedraft.generation import PeerInfo, ServerInfo, StepKind, TimelineStep


@dataclass(frozen=True, slots=True)
class Look:
    """A server at one moment, and the steps that it was told of since the look before."""

    info: ServerInfo
    steps: tuple[TimelineStep, ...] = ()


def sample(before: Look, after: Look) -> dict[str, Any]:
    """Rates and shares of the time between, and what is there now. JSON values only; None where nothing is known."""
    old, new = before.info, after.info
    seconds = max(new.activity.wall_seconds - old.activity.wall_seconds, 1e-9)
    emitted, drafted, kept, verified = (
        getattr(new.speculation, name) - getattr(old.speculation, name)
        for name in ("emitted_tokens", "draft_tokens", "accepted_tokens", "rounds")
    )
    rounds = {lane.lane: lane.rounds for lane in old.lanes}
    busy = _busy(after.steps, seconds)
    choice = new.choice
    return {
        "model": new.target.model_id if new.target else None,
        "version": new.version,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(emitted / seconds, 1),
        "requests_running": sum(lane.requests for lane in new.lanes),
        "requests_waiting": new.queued_requests,
        "requests_finished": new.finished_requests,
        "requests_aborted": new.aborted_requests,
        "acceptance_length": round(emitted / verified, 2) if verified else None,
        "drafts_kept": round(kept / drafted, 3) if drafted else None,
        "acceptance_by_position": _by_position(old, new),
        "overlap": round((new.activity.overlap_seconds - old.activity.overlap_seconds) / seconds, 3),
        "lanes_chosen": choice.lanes,
        "draft_tokens_chosen": choice.draft_tokens,
        "choice": choice.reason,
        "services": [
            _service(kind, peer, busy)
            for kind, peers in ((StepKind.VERIFY, new.verifiers), (StepKind.DRAFT, new.drafters))
            for peer in peers
        ],
        "lanes": [
            {
                "lane": lane.lane,
                "requests": lane.requests,
                "rounds_per_second": round((lane.rounds - rounds.get(lane.lane, 0)) / seconds, 1),
                "verifier": lane.verifier,
                "drafter": lane.drafter,
            }
            for lane in new.lanes
        ],
    }


def _busy(steps: Sequence[TimelineStep], seconds: float) -> dict[Service, float]:
    """Share of the time that each service was in steps."""
    spent: dict[Service, int] = {}
    for step in steps:
        spent[service_of(step)] = spent.get(service_of(step), 0) + step.ended_ns - step.started_ns
    return {service: min(1.0, nanoseconds * 1e-9 / seconds) for service, nanoseconds in spent.items()}


def _service(kind: StepKind, peer: PeerInfo, busy: dict[Service, float]) -> dict[str, Any]:
    state, model = peer.state, peer.model
    used = None
    if state is not None and model is not None and model.num_blocks:
        used = round(1 - state.free_blocks / model.num_blocks, 3)
    return {
        "kind": "verifier" if kind is StepKind.VERIFY else "drafter",
        "address": peer.address,
        "connected": peer.connected,
        "model": model.model_id if model else None,
        "busy": round(busy.get(Service(kind, peer.address), 0.0), 3),
        "kv_used": used,
        "sequences": state.sequences if state else None,
        "channel": peer.channel,
        "refusal": peer.refusal,
    }


def _by_position(old: ServerInfo, new: ServerInfo) -> list[float]:
    """Share of the drafts at each place that were kept, of those whose place was drafted meanwhile."""
    drafted, kept = (
        [now - then for now, then in zip_longest(after, before, fillvalue=0)]
        for after, before in (
            (new.speculation.drafted_by_position, old.speculation.drafted_by_position),
            (new.speculation.accepted_by_position, old.speculation.accepted_by_position),
        )
    )
    return [round(keeps / drafts, 3) for keeps, drafts in zip(kept, drafted, strict=True) if drafts]
