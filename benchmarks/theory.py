"""Two lanes against one, each with its best K, beside the theory. Simulated.

    python -m benchmarks.theory

See benchmarks/two_lanes.py. Writes benchmarks/results/theory.json; `python -m benchmarks.plots theory` draws it.

The theory: t seconds of drafting succeed with 1 - exp(-alpha t), a verification takes V whatever it is fed, and
v = alpha V. Standard speculative decoding takes t + V a round, two lanes of the same size max(t, V) a verification, and
with the best t each the ratio is R(v) = (1 + x + v) (1 - exp(-v)) / v where exp(x) = 1 + x + v. Here a draft token
takes B seconds and is kept with probability exp(-alpha B). B is a hundredth of V, or less: the verification gives a
token by itself, which the theory does not count.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from scipy.optimize import brentq

from benchmarks.record import record
from benchmarks.two_lanes import best
from tests.unit.coordinator.timed import Devices

MS: Final = 1e-3
MOST_ALPHA_B: Final = 0.02  # of one draft token
DRAFT: Final = 1.0 * MS
SIZE: Final = 4  # requests of a lane
VS: Final = (0.1, 0.2, 0.5, 1.0, 1.26, 2.0, 3.0, 6.0, 10.0)
NEAR: Final = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.45)  # times the best K by theory


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


def main() -> None:
    print(json.dumps(record("theory", {"lane_size": SIZE, "rows": [compared(v) for v in VS]}), indent=1))


if __name__ == "__main__":
    main()
