"""Prometheus metrics of this process, in a registry of their own. Names follow vLLM's, times are in seconds."""

from __future__ import annotations

import time
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.registry import Collector

from minedraft.errors import DeadlineExceeded, InvalidRequest, Overloaded, PeerUnavailable
from minedraft.generation import FinishReason, Output
from minedraft.telemetry.metrics import Reading

PREFIX: Final = "minedraft_http_"
FIRST_TOKEN_BUCKETS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160,
)  # fmt: skip
INTER_TOKEN_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10,
)  # fmt: skip
LATENCY_BUCKETS: Final = (
    0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960,
)  # fmt: skip
FINISHED: Final = {FinishReason.EOS: "stop", FinishReason.STOP: "stop", FinishReason.LENGTH: "length"}
FAILED: Final[dict[type[BaseException], str]] = {
    InvalidRequest: "refused",
    Overloaded: "overloaded",
    PeerUnavailable: "unavailable",
    DeadlineExceeded: "deadline",
}


class Metrics:
    """Counts of everything since the start."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            f"{PREFIX}requests", "HTTP requests answered, by route and status; 499: the client went away.",
            ["route", "status"], registry=registry,
        )  # fmt: skip
        self.in_flight = Gauge(f"{PREFIX}requests_in_flight", "HTTP requests being answered.", registry=registry)
        self.request_latency = Histogram(
            f"{PREFIX}request_latency_seconds", "From a request to the end of its answer.", ["route"],
            buckets=LATENCY_BUCKETS, registry=registry,
        )  # fmt: skip
        self.generations = Counter(
            f"{PREFIX}generations", "Generations ended, by reason: one for each choice of a request.",
            ["finished_reason"], registry=registry,
        )  # fmt: skip
        self.first_token = Histogram(
            f"{PREFIX}time_to_first_token_seconds", "From a request to the first token of a choice.",
            buckets=FIRST_TOKEN_BUCKETS, registry=registry,
        )  # fmt: skip
        self.inter_token = Histogram(
            f"{PREFIX}inter_token_latency_seconds",
            "Between tokens of a choice; tokens that came together share the time since those before.",
            buckets=INTER_TOKEN_BUCKETS, registry=registry,
        )  # fmt: skip
        self.prompt_tokens = Counter(f"{PREFIX}prompt_tokens", "Prompt tokens of finished choices.", registry=registry)
        self.generation_tokens = Counter(f"{PREFIX}generation_tokens", "Tokens generated.", registry=registry)

    def text(self) -> bytes:
        """All of it in Prometheus's text format."""
        return generate_latest(self._registry)

    def collector(self) -> Collector:
        """All of it, for another registry."""
        return Reading(self._registry.collect)


class GenerationMeter:
    """Follows one generation from its HTTP request to its last token."""

    def __init__(self, metrics: Metrics, asked_at: float) -> None:
        """`asked_at` is on the clock of time.perf_counter."""
        self._metrics = metrics
        self._last = asked_at
        self._any = False

    def took(self, output: Output) -> None:
        """One more piece has arrived."""
        tokens = len(output.token_ids)
        if tokens:
            self._time(tokens)
            self._metrics.generation_tokens.inc(tokens)
        if output.usage is not None:
            self._metrics.prompt_tokens.inc(output.usage.prompt_tokens)
        if output.finish_reason is not None:
            self._metrics.generations.labels(FINISHED[output.finish_reason]).inc()

    def failed(self, error: BaseException) -> None:
        """It has ended without an end. Everything but the family's errors counts as the client's leaving or a fault."""
        reason = FAILED.get(type(error), "error" if isinstance(error, Exception) else "cancelled")
        self._metrics.generations.labels(reason).inc()

    def _time(self, tokens: int) -> None:
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        if not self._any:
            self._any = True
            self._metrics.first_token.observe(seconds)
            return
        for _ in range(tokens):
            self._metrics.inter_token.observe(seconds / tokens)
