"""The coordinator's metrics: what `GetServerInfo` says, and how long clients wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from minedraft.generation import PeerInfo, ServerInfo
from minedraft.telemetry.metrics import PREFIX, Reading, counter, gauge

READ_SECONDS: Final = 5.0
FIRST_TOKEN_BUCKETS: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
INTER_TOKEN_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
REQUEST_BUCKETS: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0)
FAILURES: Final = (
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.INTERNAL,
)


class Waits:
    """How long clients wait, and what they are refused. Observed on the event loop, once a piece of output."""

    def __init__(self) -> None:
        nowhere = CollectorRegistry()  # the endpoint has a registry of its own

        def histogram(name: str, help_text: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(PREFIX + name, help_text, buckets=buckets, registry=nowhere)

        self._first = histogram(
            "time_to_first_token_seconds", "From a request's arrival to its first token.", FIRST_TOKEN_BUCKETS
        )
        self._between = histogram(
            "inter_token_latency_seconds",
            "Between tokens; tokens of one round share the time since the round before.",
            INTER_TOKEN_BUCKETS,
        )
        self._whole = histogram(
            "request_latency_seconds", "From a request's arrival to its end, however it ended.", REQUEST_BUCKETS
        )
        self._failed = Counter(
            PREFIX + "requests_failed", "Requests that ended with an error, by status.", ["code"], registry=nowhere
        )
        for code in FAILURES:  # there from the start, so that the first one is seen as an increase
            self._failed.labels(code.name)
        self.collectors: tuple[Collector, ...] = (self._first, self._between, self._whole, self._failed)

    def begin(self) -> Wait:
        """A request has arrived."""
        return Wait(self._first, self._between, self._whole)

    def failed(self, code: object) -> None:
        """A request has ended with this status of gRPC's; anything else is no failure."""
        if isinstance(code, grpc.StatusCode) and code is not grpc.StatusCode.OK:
            self._failed.labels(code.name).inc()


class Wait:
    """One request's."""

    def __init__(self, first: Histogram, between: Histogram, whole: Histogram) -> None:
        self._first, self._between, self._whole = first, between, whole
        self._arrived = self._last = time.perf_counter()
        self._answered = False

    def piece(self, tokens: int) -> None:
        """That many tokens are on their way to the client."""
        if tokens == 0:
            return
        now = time.perf_counter()
        if self._answered:
            self._between.observe((now - self._last) / tokens)
        else:
            self._first.observe(now - self._arrived)
        self._last, self._answered = now, True

    def end(self) -> None:
        self._whole.observe(time.perf_counter() - self._arrived)


def server_collector(info: Callable[[], ServerInfo | None], loop: asyncio.AbstractEventLoop) -> Collector:
    """What the server says of itself; nothing before there is one. `info` is called on `loop` only."""

    async def ask() -> ServerInfo | None:
        return info()

    def read() -> Iterable[Metric]:
        found = asyncio.run_coroutine_threadsafe(ask(), loop).result(READ_SECONDS)
        return [] if found is None else list(_families(found))

    return Reading(read)


def _families(info: ServerInfo) -> Iterable[Metric]:
    yield from _speculation(info)
    yield from _activity(info)
    yield from _choice(info)
    yield from _requests(info)
    yield from _peers([("verifier", peer) for peer in info.verifiers] + [("drafter", peer) for peer in info.drafters])
    yield from _channel(info.drafters)


def _speculation(info: ServerInfo) -> Iterable[Metric]:
    stats = info.speculation
    yield counter("spec_decode_num_drafts", "Verifications that had drafts.", ({}, stats.drafted_rounds))
    yield counter("spec_decode_num_draft_tokens", "Drafts that were verified.", ({}, stats.draft_tokens))
    yield counter("spec_decode_num_accepted_tokens", "Drafts that were kept.", ({}, stats.accepted_tokens))
    yield counter(
        "spec_decode_num_accepted_tokens_per_pos",
        "Drafts that were kept, by their place in the proposal.",
        *(({"position": str(place)}, kept) for place, kept in enumerate(stats.accepted_by_position)),
    )
    yield counter("generation_tokens", "Tokens emitted.", ({}, stats.emitted_tokens))


def _activity(info: ServerInfo) -> Iterable[Metric]:
    seen = info.activity
    services = ({"service": "verifier"}, {"service": "drafter"})
    yield counter(
        "busy_seconds",
        "Time in steps: forward passes and the host work around them.",
        *zip(services, (seen.verifier_busy_seconds, seen.drafter_busy_seconds), strict=True),
    )
    yield counter(
        "forward_seconds",
        "Time in forward passes.",
        *zip(services, (seen.verifier_forward_seconds, seen.drafter_forward_seconds), strict=True),
    )
    yield counter("overlap_seconds", "Time in which both services were at work.", ({}, seen.overlap_seconds))
    yield counter("steps", "Steps answered.", *zip(services, (seen.verifications, seen.drafts), strict=True))


def _choice(info: ServerInfo) -> Iterable[Metric]:
    """Each verifier's; by its place among them."""
    made = [({"verifier": str(place)}, choice) for place, choice in enumerate(info.choices)]
    yield gauge(
        "chosen",
        "Lanes and drafts a round (K) at this moment; auto: whether they are chosen by measurement.",
        *(
            (label | {"setting": name, "auto": str(auto).lower()}, value)
            for label, choice in made
            for name, auto, value in (
                ("lanes", choice.auto_lanes, choice.lanes),
                ("draft_tokens", choice.auto_draft_tokens, choice.draft_tokens),
            )
        ),
    )
    yield gauge(
        "forecast_seconds",
        "What a round is expected to take: drafting (t), verification (V), and around them.",
        *(
            (label | {"part": part}, seconds)
            for label, choice in made
            for part, seconds in (
                ("draft", choice.draft_seconds),
                ("verify", choice.verify_seconds),
                ("around", choice.around_seconds),
            )
        ),
    )
    yield gauge(
        "forecast_tokens_per_second",
        "What all requests together are expected to get.",
        *((label, choice.tokens_per_second) for label, choice in made),
    )
    yield gauge(
        "acceptance",
        "Chance that a draft is kept when those before it were, by its place in the proposal.",
        *(
            (label | {"position": str(place)}, chance)
            for label, choice in made
            for place, chance in enumerate(choice.acceptance)
        ),
    )
    yield counter(
        "choice_changes",
        "How often another number of lanes or drafts was chosen.",
        *((label, choice.changes) for label, choice in made),
    )
    yield counter(
        "choice_trials",
        "How often another choice was tried for a few rounds.",
        *((label, choice.trials) for label, choice in made),
    )
    yield counter(
        "choice_trial_seconds", "What trials have cost.", *((label, choice.trial_seconds) for label, choice in made)
    )


def _requests(info: ServerInfo) -> Iterable[Metric]:
    lanes = [({"lane": str(lane.lane), "verifier": lane.verifier}, lane) for lane in info.lanes]
    yield gauge("num_requests_running", "Requests in a lane.", *((label, lane.requests) for label, lane in lanes))
    yield gauge("num_requests_waiting", "Requests in the queue.", ({}, info.queued_requests))
    yield gauge("queue_size", "Requests that the queue holds at most.", ({}, info.limits.queue_size))
    yield counter("lane_rounds", "Rounds that a lane has run.", *((label, lane.rounds) for label, lane in lanes))
    yield counter(
        "requests",
        "Requests that are over.",
        ({"ended": "finished"}, info.finished_requests),
        ({"ended": "aborted"}, info.aborted_requests),
    )


def _peers(peers: Sequence[tuple[str, PeerInfo]]) -> Iterable[Metric]:
    found = [({"service": name, "address": peer.address}, peer) for name, peer in peers]
    yield gauge("peer_up", "1 while the service is connected and used.", *((label, p.connected) for label, p in found))
    yield counter("peer_connections", "Connections made.", *((label, p.connections) for label, p in found))
    known = [(label, p.state, p.model) for label, p in found if p.state is not None and p.model is not None]
    yield gauge("kv_blocks_free", "Free KV blocks.", *((label, state.free_blocks) for label, state, _ in known))
    yield gauge("kv_blocks", "KV blocks in all.", *((label, model.num_blocks) for label, _, model in known))


def _channel(drafters: Sequence[PeerInfo]) -> Iterable[Metric]:
    found = [({"drafter": peer.address}, peer) for peer in drafters]
    yield gauge(
        "channel_info",
        "1 for the kind of a drafter's open tensor channels.",
        *((label | {"kind": peer.channel or "none"}, 1) for label, peer in found),
    )
    yield counter(
        "channels_opened",
        "Tensor channels that were opened or tried.",
        *((label, peer.channel_generation) for label, peer in found),
    )
    yield counter(
        "channel_payloads", "Dense laws that went over a channel.", *((label, peer.payloads) for label, peer in found)
    )
    yield counter(
        "channel_payloads_replaced",
        "Dense laws that were replaced by top-M ones.",
        *((label, peer.payloads_replaced) for label, peer in found),
    )
