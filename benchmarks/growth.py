"""What the coordinator's own work costs as requests, lanes and K grow: CPU time for each request and round.

    python -m benchmarks.growth [--repeats 5]

Real lanes, admission, chooser and commit before services that answer at once in this process, on a clock that jumps
(tests/unit/coordinator/timed.py): all CPU time is the coordinator's, and that of these services' few lines an item.
Settings run in turn; medians. Every round has work of its own, which requests share, so a request costs most when it is
alone; what must not be is that it costs more among many. Writes benchmarks/results/growth.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any, Final

from benchmarks.record import record
from coordinator.chooser import Chooser
from tests.unit.coordinator import virtual_time
from tests.unit.coordinator.timed import ClosedLoop, Devices

MS: Final = 1e-3
REQUESTS: Final = (1, 4, 16, 64, 256)
DRAFTS: Final = (1, 4, 8)
LANES: Final = (1, 2, 4)
DEVICES: Final = Devices(lambda *_: 5 * MS, lambda *_: 25 * MS, 0.5 * MS)
CHANCE: Final = 0.7
ROUNDS: Final = 6000  # a request's rounds in all, of each run
USUAL: Final = (64, 2, 4)  # requests, lanes, K: what the others are compared with


def cost(requests: int, lanes: int, drafts: int) -> float:
    """Microseconds of CPU for each request and round."""

    async def main() -> float:
        chooser = Chooser([lanes], [drafts])
        async with ClosedLoop(DEVICES, lambda _: CHANCE, chooser, lanes=lanes) as loop:
            loop.load(requests)
            a_round = (1 - CHANCE ** (drafts + 1)) / (1 - CHANCE)
            await loop.until(int(0.3 * ROUNDS * a_round))
            before, steps = time.process_time(), loop.verifier.items
            await loop.until(int(1.3 * ROUNDS * a_round))
            return (time.process_time() - before) / (loop.verifier.items - steps)

    return 1e6 * virtual_time.run(main())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    requests, lanes, drafts = USUAL
    grid = sorted(
        {(count, lanes, drafts) for count in REQUESTS}
        | {(requests * count // lanes, count, drafts) for count in LANES}  # lanes of the same size
        | {(requests, lanes, count) for count in DRAFTS}
    )
    seen: dict[tuple[int, int, int], list[float]] = {setting: [] for setting in grid}
    for _ in range(options.repeats):
        for setting in grid:
            seen[setting].append(cost(*setting))
    medians = {setting: statistics.median(values) for setting, values in seen.items()}
    usual = medians[USUAL]
    cells: list[dict[str, Any]] = [
        {
            "requests": count,
            "lanes": width,
            "draft_tokens": length,
            "microseconds": round(medians[count, width, length], 1),
            "to_usual": round(medians[count, width, length] / usual, 3),
        }
        for count, width, length in grid
    ]
    print(json.dumps(record("growth", {"repeats": options.repeats, "usual": USUAL, "cells": cells}), indent=1))


if __name__ == "__main__":
    main()
