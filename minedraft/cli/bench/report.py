"""What a load measured, as the fields of `minedraft bench --json`. Pure.

- `seconds` runs from the first request sent to the last one ended: prompts and the ramps at both ends are in it.
- `steady` covers the time in which all C requests were in flight and past their first token: from the first token of
  the last of the C streams until the first worker had nothing left to send. Null when there was no such time, and when
  requests arrived by themselves.
- `tokens_per_second_per_device`: over the devices that work, `devices` of the settings.
- `ttft_ms`: from sending a request to its first token. `latency_ms`: to its end.
- `itl_ms`: time between tokens as a client sees it. Tokens arrive in pieces, one a verification; a piece of n tokens
  that comes g after the one before it counts as n gaps of g / n.
- `verifier_busy`, `drafter_busy`: time in forward passes over wall time, by the server's clock; `..._engine_busy` adds
  the steps' host work. `overlap`: share of the wall time in which both engines were at work.
- `acceptance_by_position`: drafts kept over drafts checked at each place of a proposal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np

from minedraft.cli.bench.load import Load, Sample, Trace
from minedraft.generation import SpeculationStats

PERCENTILES: Final = (50, 95, 99)
Fields = dict[str, Any]


def report(load: Load, devices: int = 1) -> Fields:
    """All measured fields. `devices`: how many hold a model."""
    done = [trace for trace in load.traces if trace.error is None]
    failed = [trace for trace in load.traces if trace.error is not None]
    tokens = sum(trace.tokens for trace in load.traces)
    seconds = max(trace.ended for trace in load.traces) - min(trace.sent for trace in load.traces)
    return {
        "completed": len(done),
        "failed": len(failed),
        "errors": dict(Counter(str(trace.error) for trace in failed)),
        "output_tokens": tokens,
        "seconds": round(seconds, 6),
        "tokens_per_second": _ratio(tokens, seconds),
        "tokens_per_second_per_device": _ratio(tokens, seconds * devices),
        "ttft_ms": percentiles(trace.pieces[0][0] - trace.sent for trace in done if trace.pieces),
        "itl_ms": percentiles(gap for trace in done for gap in gaps(trace.pieces)),
        "latency_ms": percentiles(trace.ended - trace.sent for trace in done),
        **speculation(trace.last.speculation for trace in done if trace.last and trace.last.speculation),
        **activity(load.before, load.after),
        "steady": None if load.steady is None else steady(load.traces, *load.steady),
    }


def steady(traces: Sequence[Trace], begin: Sample, end: Sample) -> Fields:
    """The same figures between two samples."""
    tokens = sum(count for trace in traces for when, count in trace.pieces if begin.when < when <= end.when)
    seconds = end.when - begin.when
    return {
        "output_tokens": tokens,
        "seconds": round(seconds, 6),
        "tokens_per_second": _ratio(tokens, seconds),
        **activity(begin, end),
    }


def activity(begin: Sample, end: Sample) -> Fields:
    """How busy the services were between two samples."""
    a, b = begin.info.activity, end.info.activity
    wall = b.wall_seconds - a.wall_seconds
    verifications = b.verifications - a.verifications
    return {
        "verifier_busy": _ratio(b.verifier_forward_seconds - a.verifier_forward_seconds, wall),
        "drafter_busy": _ratio(b.drafter_forward_seconds - a.drafter_forward_seconds, wall),
        "overlap": _ratio(b.overlap_seconds - a.overlap_seconds, wall),
        "verifier_engine_busy": _ratio(b.verifier_busy_seconds - a.verifier_busy_seconds, wall),
        "drafter_engine_busy": _ratio(b.drafter_busy_seconds - a.drafter_busy_seconds, wall),
        "verifications": verifications,
        "seconds_per_verification": _ratio(wall, verifications, digits=6),
    }


def speculation(parts: Iterable[SpeculationStats]) -> Fields:
    """What was drafted and kept, over the given requests."""
    stats = list(parts)
    rounds, emitted = sum(part.rounds for part in stats), sum(part.emitted_tokens for part in stats)
    kept = _by_position([part.accepted_by_position for part in stats])
    checked = _by_position([part.drafted_by_position for part in stats])
    return {
        "acceptance_length": _ratio(emitted, rounds),
        "acceptance_by_position": [_ratio(k, c) for k, c in zip(kept, checked, strict=True)],
        "rounds": rounds,
        "draft_tokens": sum(part.draft_tokens for part in stats),
        "accepted_tokens": sum(part.accepted_tokens for part in stats),
    }


def gaps(pieces: Sequence[tuple[float, int]]) -> list[float]:
    """Seconds between tokens: one entry for each token after the first piece."""
    return [(when - earlier) / count for (earlier, _), (when, count) in pairwise(pieces) for _ in range(count)]


def percentiles(seconds: Iterable[float]) -> Fields:
    """p50, p95 and p99 in milliseconds, linearly interpolated; null without values."""
    values = np.fromiter(seconds, dtype=np.float64)
    if not values.size:
        return {f"p{share}": None for share in PERCENTILES}
    found = np.percentile(1000.0 * values, PERCENTILES)
    return {f"p{share}": round(float(value), 3) for share, value in zip(PERCENTILES, found, strict=True)}


def _by_position(counts: Sequence[Sequence[int]]) -> list[int]:
    longest = max(map(len, counts), default=0)
    return [sum(count[place] for count in counts if place < len(count)) for place in range(longest)]


def _ratio(part: float, whole: float, digits: int = 4) -> float | None:
    """None where there is nothing to divide by."""
    return round(part / whole, digits) if whole > 0 else None
