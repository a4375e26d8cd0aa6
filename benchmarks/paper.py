"""The paper's experiment with assumed device times: its five settings, and sweeps over K and over the batch. Simulated.

    python -m benchmarks.paper

Two lanes of m against standard speculative decoding, which is one lane of m, as the paper has it; the same per device,
five against four; and against one lane of 2m, which has as many requests in flight. Each with its best K of 1 to 8. See
benchmarks/two_lanes.py. Writes benchmarks/results/paper.json; `python -m benchmarks.plots paper` draws it.

Assumed, as the paper does not give them: GPUs that read READ bytes and compute COMPUTE operations a second. A pass
reads all weights or computes 2 operations a weight and token, whichever takes longer, and OVERHEAD comes on top; the
target is split over four GPUs, whose exchange takes EXCHANGE. Weights have 16 bits, the 70B target's 4. What share of
drafts is kept is not given either, so each setting has three.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from benchmarks.record import record
from benchmarks.two_lanes import best, by_theory, rate
from tests.unit.coordinator.timed import Devices

READ: Final = 0.85e12
COMPUTE: Final = 150e12
OVERHEAD: Final = 0.5e-3
EXCHANGE: Final = 3e-3
TRIP: Final = 0.5e-3
TARGET_GPUS: Final = 4
DRAFTS: Final = range(1, 9)
CHANCES: Final = (0.6, 0.7, 0.8)
STEPS: Final = 6400  # rounds of all requests together, measured
SWEPT_CHANCE: Final = 0.7
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Setting:
    """A pair of the paper. Parameters in billions, bits of a weight of the target, requests of a lane."""

    number: int
    name: str
    target: float
    bits: int
    draft: float
    batch: int
    reported: float | None  # the most over standard speculative decoding

    @property
    def devices(self) -> Devices:
        draft_read = 2e9 * self.draft / READ
        target_read = self.target * 1e9 * self.bits / 8 / TARGET_GPUS / READ
        draft_token = 2e9 * self.draft / COMPUTE
        target_token = 2e9 * self.target / TARGET_GPUS / COMPUTE
        return Devices(
            lambda items, passes, *_: passes * (OVERHEAD + max(draft_read, items * draft_token)),
            lambda _, tokens: OVERHEAD + EXCHANGE + max(target_read, tokens * target_token),
            TRIP,
        )


SETTINGS: Final = (
    Setting(1, "Qwen3 32B + 0.6B", 32, 16, 0.6, 16, 1.703),
    Setting(2, "Qwen3 32B + 1.7B", 32, 16, 1.7, 16, 1.757),
    Setting(3, "Qwen3 32B + 4B", 32, 16, 4, 16, 1.751),
    Setting(4, "Qwen3 32B + 8B", 32, 16, 8, 64, None),
    Setting(5, "Llama 70B (4 bits) + 8B", 70, 4, 8, 64, 1.371),
)


def compared(setting: Setting, chance: float) -> dict[str, Any]:
    """One setting with one share of drafts kept."""
    devices, size = setting.devices, setting.batch

    def found(lanes: int, requests: int) -> tuple[float, int]:
        return best(devices, chance, DRAFTS, lanes=lanes, requests=requests, rounds=STEPS // requests)

    one, one_k = found(1, size)
    equal, equal_k = found(1, 2 * size)
    two, two_k = found(2, 2 * size)
    return {
        "setting": setting.number,
        "pair": setting.name,
        "lane_size": size,
        "draft_pass_ms": round(1e3 * devices.draft(size, 1, size, size), 2),
        "verification_ms": {k: round(1e3 * devices.verify(size, size * (k + 1)), 2) for k in (1, 4)},
        "acceptance": chance,
        "same_lane_size": round(two / one, 3),
        "per_device": round(two / one * TARGET_GPUS / (TARGET_GPUS + 1), 3),
        "same_requests_in_flight": round(two / equal, 3),
        "paper_at_most": setting.reported,
        "best_drafts": {"one lane": one_k, "one lane of all": equal_k, "two lanes": two_k},
    }


def swept(lanes: int, requests: int, drafts: int) -> dict[str, Any]:
    """One point of a sweep, setting 2."""
    devices = SETTINGS[1].devices
    about = {"lanes": lanes, "requests": requests, "drafts": drafts}
    rounds = max(100, STEPS // requests)
    return {
        **about,
        "tokens_per_second": round(rate(devices, SWEPT_CHANCE, rounds=rounds, **about), 2),
        "theory": round(by_theory(devices, SWEPT_CHANCE, **about), 2),
    }


def main() -> None:
    size = SETTINGS[1].batch
    by_drafts = [(*way, k) for way in ((1, size), (1, 2 * size), (2, 2 * size)) for k in DRAFTS]
    by_batch = [way for m in BATCHES for way in ((1, m, 4), (1, 2 * m, 4), (2, 2 * m, 4))]
    with ProcessPoolExecutor() as workers:
        settings = list(workers.map(compared, *zip(*product(SETTINGS, CHANCES), strict=True)))
        sweeps = [list(workers.map(swept, *zip(*points, strict=True))) for points in (by_drafts, by_batch)]
    off = max(abs(point["tokens_per_second"] / point["theory"] - 1) for points in sweeps for point in points)
    fields = {
        "assumed": {
            "bytes_a_second": READ, "operations_a_second": COMPUTE, "overhead_of_a_pass_seconds": OVERHEAD,
            "exchange_seconds": EXCHANGE, "trip_seconds": TRIP, "target_gpus": TARGET_GPUS,
        },
        "settings": settings,
        "swept_acceptance": SWEPT_CHANCE,
        "farthest_from_theory": round(off, 4),
        "sweeps": dict(zip(("drafts", "batch"), sweeps, strict=True)),
    }  # fmt: skip
    print(json.dumps(record("paper", fields), indent=1))


if __name__ == "__main__":
    main()
