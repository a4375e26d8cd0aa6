"""What a model service shows at --metrics: its steps and its room."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from minedraft.engine.stepper import Stepper
from minedraft.telemetry.metrics import Reading, counter, gauge

SECONDS: Final = 1e-9


def step_collector(stepper: Stepper[Any, Any]) -> Collector:
    """Reads sums that the engine thread keeps anyway."""

    def read() -> Iterable[Metric]:
        totals, state, info = stepper.totals, stepper.newest_state, stepper.info
        labels = {
            "model": info.model_id,
            "device": info.device,
            "dtype": info.dtype,
            "attention": info.attention_backend,
        }
        yield gauge("model_info", "1; the model is in the labels.", (labels, 1))
        yield counter("steps", "Steps answered.", ({}, totals.steps))
        yield counter("queue_seconds", "Time that steps waited for the engine.", ({}, totals.queue_ns * SECONDS))
        busy = (totals.host_ns + totals.forward_ns) * SECONDS
        yield counter("busy_seconds", "Time in steps: forward passes and the host work around them.", ({}, busy))
        yield counter("forward_seconds", "Time in forward passes.", ({}, totals.forward_ns * SECONDS))
        yield gauge("kv_blocks", "KV blocks in all.", ({}, info.num_blocks))
        yield gauge("kv_blocks_free", "Free KV blocks after the newest step.", ({}, state.free_blocks))
        yield counter("tokens_fed", "Tokens that went through the model.", ({}, state.fed_tokens))
        yield counter(
            "prefix_cache_queries", "Tokens in whole KV blocks that were looked for.", ({}, state.prefix_tokens)
        )
        yield counter(
            "prefix_cache_hits", "Tokens of those that another sequence had computed.", ({}, state.prefix_tokens_found)
        )
        yield counter(
            "prefix_cache_evictions", "KV blocks forgotten because their room was needed.", ({}, state.prefix_evictions)
        )
        yield gauge("sequences", "Sequences held after the newest step.", ({}, state.sequences))

    return Reading(read)
