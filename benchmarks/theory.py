"""Two lanes against one, each with its best K, beside the theory; and one of the paper's settings. Simulated.

    python -m benchmarks.theory

Real lanes, admission and commit before services that take given times, on a clock that jumps
(tests/unit/coordinator/timed.py); the coordinator's own work takes no virtual time. docs/results.md says what is
assumed. Writes benchmarks/results/theory.json.

The theory: t seconds of drafting succeed with 1 - exp(-alpha t), a verification takes V whatever it is fed, and
v = alpha V. Standard speculative decoding takes t + V a round, two lanes of the same size max(t, V) a verification, and
with the best t each the ratio is R(v) = (1 + x + v) (1 - exp(-v)) / v where exp(x) = 1 + x + v. Here a draft token
takes B seconds and is kept with probability exp(-alpha B). B is a hundredth of V, or less: the verification gives a
token by itself, which the theory does not count.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, Final

from scipy.optimize import brentq

from benchmarks.record import record
from coordinator.chooser import Chooser
from tests.unit.coordinator import virtual_time
from tests.unit.coordinator.timed import ClosedLoop, Devices

MS: Final = 1e-3
MOST_ALPHA_B: Final = 0.02  # of one draft token
DRAFT: Final = 1.0 * MS
SIZE: Final = 4  # requests of a lane
ROUNDS: Final = 1000  # of each request, measured
VS: Final = (0.1, 0.5, 1.26, 3.0, 6.0, 10.0)
NEAR: Final = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.45)  # times the best K by theory
ENDLESS: Final = 1 << 40

# Qwen3-32B with Qwen3-1.7B, 16 requests of a lane: 32B weights in 16 bits over four GPUs and 1.7B on one read at some
# 3 TB/s each, and the host's work on top.
PAPER: Final = Devices(
    lambda _, passes, *__: passes * 4.5 * MS, lambda _, tokens: (3 + max(19, 0.11 * tokens)) * MS, 0.5 * MS
)
PAPER_SIZE: Final = 16
PAPER_CHANCES: Final = (0.6, 0.7, 0.8)


def rate(devices: Devices, chance: float, *, lanes: int, requests: int, drafts: int) -> float:
    """Tokens a second."""

    async def main() -> float:
        chooser = Chooser([lanes], [drafts])
        loop = ClosedLoop(devices, lambda _: chance, chooser, lanes=lanes, length=lambda _: ENDLESS)
        async with loop:
            loop.load(requests)
            expected = (1 - chance ** (drafts + 1)) / (1 - chance)
            early, begin = await loop.until(int(0.05 * ROUNDS * requests * expected))
            late, end = await loop.until(int(1.05 * ROUNDS * requests * expected))
        return (late - early) / (end - begin)

    return virtual_time.run(main())


def best(devices: Devices, chance: float, drafts: Sequence[int], *, lanes: int, requests: int) -> tuple[float, int]:
    """Tokens a second with the best K, and that K."""
    return max((rate(devices, chance, lanes=lanes, requests=requests, drafts=count), count) for count in drafts)


def around(drafts: float) -> list[int]:
    """K near the one that is best by theory."""
    return sorted({max(1, round(factor * drafts)) for factor in NEAR})


def compared(v: float) -> dict[str, Any]:
    """One v: measured and by theory."""
    alpha_b = min(MOST_ALPHA_B, v / 100)
    chance, verify = math.exp(-alpha_b), v / alpha_b * DRAFT
    devices = Devices(lambda _, passes, *__: passes * DRAFT, lambda *_: verify, 0.0)
    x = brentq(lambda x: math.exp(x) - 1 - x - v, 1e-9, 50.0)
    theory = (1 + x + v) * (1 - math.exp(-v)) / v
    one, one_k = best(devices, chance, around(x / alpha_b), lanes=1, requests=SIZE)
    two, two_k = best(devices, chance, around(v / alpha_b), lanes=2, requests=2 * SIZE)
    print(f"v={v}: {two / one:.3f}, theory {theory:.3f}", flush=True)
    return {
        "v": v,
        "alpha_b": alpha_b,
        "ratio": round(two / one, 3),
        "theory": round(theory, 3),
        "off": round(two / one / theory - 1, 4),
        "best_drafts": {"one lane": one_k, "two lanes": two_k},
    }


def paper(chance: float) -> dict[str, Any]:
    """Setting 2 of the paper: two lanes of 16 against one of 16, and against one of 32."""
    drafts = range(1, 9)
    one, one_k = best(PAPER, chance, drafts, lanes=1, requests=PAPER_SIZE)
    equal, equal_k = best(PAPER, chance, drafts, lanes=1, requests=2 * PAPER_SIZE)
    two, two_k = best(PAPER, chance, drafts, lanes=2, requests=2 * PAPER_SIZE)
    print(f"acceptance {chance}: {two / one:.3f} at the same size, {two / equal:.3f} in flight", flush=True)
    return {
        "acceptance": chance,
        "same_lane_size": round(two / one, 3),
        "same_lane_size_per_device": round(two / one * 4 / 5, 3),
        "same_requests_in_flight": round(two / equal, 3),
        "best_drafts": {"one lane of 16": one_k, "one lane of 32": equal_k, "two lanes of 16": two_k},
    }


def main() -> None:
    fields = {
        "lane_size": SIZE,
        "rows": [compared(v) for v in VS],
        "paper_setting_2": [paper(chance) for chance in PAPER_CHANCES],
    }
    print(json.dumps(record("theory", fields), indent=1))


if __name__ == "__main__":
    main()
