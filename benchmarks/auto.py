"""What `--lanes auto --draft-tokens auto` gives against every fixed choice, on simulated devices and a virtual clock.

    python -m benchmarks.auto [--profiles balanced far ...] [--requests 1 2 ...] [--acceptance 0.3 ...] [--processes 1]

Five device profiles, 1 to 64 requests in flight, drafts kept with probability 0.3 to 0.9: a closed loop through the
real lanes, admission and chooser, before ports that take time by a law of what they are fed
(tests/unit/coordinator/timed.py), on an event loop whose clock jumps. Each is run with auto and with every fixed K in
0, 1, 2, 3, 4, 6, 8 on one and on two lanes, for SHORT tokens of each place in flight. Then auto and the best of those
serve the same requests with the same luck: LEARNING seconds of service that are not counted (but in `whole`), and
MEASURED seconds that are, or LEAST_MEASURED tokens where those are more: with one request luck is large. The
coordinator's own work takes no virtual time.
Writes benchmarks/results/auto.json and docs/images/auto.svg.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.auto_picture import picture
from benchmarks.record import record
from coordinator.chooser import Chooser
from minedraft.config import CoordinatorSettings
from tests.unit.coordinator import virtual_time
from tests.unit.coordinator.timed import ClosedLoop, Devices

SHORT = 300  # tokens for each request in flight
LEAST_SHORT = 3000
LEARNING = 30.0  # seconds
MEASURED = 20.0
LEAST_MEASURED = 20_000  # tokens
DRAFTS = (0, 1, 2, 3, 4, 6, 8)
LANES = (1, 2)
REQUESTS = (1, 2, 4, 8, 16, 32, 64)
ACCEPTANCE = (0.3, 0.5, 0.7, 0.9)
BAR = 0.97
MS = 1e-3

# Draft steps: passes, drafts in all, tail tokens. Verifications: tokens. Seconds.
PROFILES = {
    "draft-bound": (
        "t = 10 ms a pass + 20 us a draft, V = 20 ms + 50 us a token, trips 0.5 ms",
        Devices(
            lambda _, p, d, f: p * 10 * MS + d * 0.02 * MS + f * 0.01 * MS, lambda _, t: (20 + 0.05 * t) * MS, 0.5 * MS
        ),
    ),
    "balanced": (
        "t = 4 ms a pass + 50 us a draft, V = 20 ms + 100 us a token, trips 1 ms",
        Devices(
            lambda _, p, d, f: p * 4 * MS + d * 0.05 * MS + f * 0.01 * MS, lambda _, t: (20 + 0.1 * t) * MS, 1 * MS
        ),
    ),
    "verify-bound": (
        "t = 0.8 ms a pass + 200 us a draft, V = 4 ms + 1.5 ms a token, trips 0.3 ms: a CPU",
        Devices(
            lambda _, p, d, f: p * 0.8 * MS + d * 0.2 * MS + f * 0.05 * MS, lambda _, t: (4 + 1.5 * t) * MS, 0.3 * MS
        ),
    ),
    "far": (
        "t = 2 ms a pass, V = 30 ms + 20 us a token, trips 10 ms: large fixed costs",
        Devices(lambda _, p, d, f: p * 2 * MS + f * 0.01 * MS, lambda _, t: (30 + 0.02 * t) * MS, 10 * MS),
    ),
    "roofline": (
        "t = 4.5 ms a pass + 10 us a draft, V = 3 ms + max(19 ms, 110 us a token), trips 0.5 ms: 32B + 1.7B on GPUs",
        Devices(
            lambda _, p, d, f: p * 4.5 * MS + d * 0.01 * MS + f * 0.01 * MS,
            lambda _, t: (3 + max(19, 0.11 * t)) * MS,
            0.5 * MS,
        ),
    ),
}

Cell = tuple[str, float, int]


def served(cell: Cell, lanes: Sequence[int], drafts: Sequence[int], warm: int, whole: int) -> dict[str, Any]:
    """One run: tokens a second after the first `warm` tokens and from the start, and what was chosen at the end."""
    profile, acceptance, requests = cell

    async def main() -> dict[str, Any]:
        chooser = Chooser(lanes, drafts)
        async with ClosedLoop(PROFILES[profile][1], lambda _: acceptance, chooser, lanes=max(lanes)) as loop:
            loop.load(requests)
            early, begin = await loop.until(warm)
            late, end = await loop.until(whole)
        choice = chooser.describe()
        return {
            "tokens_per_second": round((late - early) / (end - begin), 2),
            "whole": round(late / end, 2),
            "warm_seconds": round(begin, 1),
            "seconds": round(end, 1),
            "chosen": f"{choice.lanes} x K={choice.draft_tokens}",
            "trials": choice.trials,
            "trial_share": round(choice.trial_seconds / end, 4),
        }

    return virtual_time.run(main())


def compared(cell: Cell) -> dict[str, Any]:
    """Auto and every fixed choice of one cell."""
    profile, acceptance, requests = cell
    settings = CoordinatorSettings()
    short = max(SHORT * requests, LEAST_SHORT)
    modes = {f"{lanes} x K={drafts}": (lanes, drafts) for lanes in LANES for drafts in DRAFTS if lanes <= requests}
    fixed = {
        name: served(cell, [lanes], [drafts], short // 4, short + short // 4) for name, (lanes, drafts) in modes.items()
    }
    best = max(fixed, key=lambda name: fixed[name]["tokens_per_second"])
    rate = fixed[best]["tokens_per_second"]
    warm = int(LEARNING * rate)
    whole = warm + max(int(MEASURED * rate), LEAST_MEASURED)
    lanes, drafts = modes[best]
    same = served(cell, [lanes], [drafts], warm, whole)
    auto = served(cell, settings.lane_choices, settings.draft_token_choices, warm, whole)
    return {
        "profile": profile,
        "acceptance": acceptance,
        "requests": requests,
        "ratio": round(auto["tokens_per_second"] / same["tokens_per_second"], 4),
        "ratio_whole": round(auto["whole"] / same["whole"], 4),
        "best": best,
        "auto": auto,
        "fixed": {name: run["tokens_per_second"] for name, run in fixed.items()},
    }


def summary(cells: Sequence[dict[str, Any]]) -> dict[str, Any]:
    ratios = sorted(cell["ratio"] for cell in cells)
    whole = sorted(cell["ratio_whole"] for cell in cells)
    every = {name for cell in cells for name in cell["fixed"]}
    defaults = {
        name: round(min(cell["fixed"].get(name, 0.0) / max(cell["fixed"].values()) for cell in cells), 3)
        for name in sorted(every)
        if all(name in cell["fixed"] for cell in cells)
    }
    return {
        "cells": len(cells),
        "worst": ratios[0],
        "below_bar": sum(ratio < BAR for ratio in ratios),
        "median": ratios[len(ratios) // 2],
        "best": ratios[-1],
        "worst_with_warm_up": whole[0],
        "median_with_warm_up": whole[len(whole) // 2],
        "worst_of_each_fixed_choice": defaults,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profiles", nargs="+", choices=PROFILES, default=list(PROFILES))
    parser.add_argument("--requests", nargs="+", type=int, default=list(REQUESTS))
    parser.add_argument("--acceptance", nargs="+", type=float, default=list(ACCEPTANCE))
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="print only, keep no results")
    options = parser.parse_args()
    grid = [(p, a, n) for p in options.profiles for a in options.acceptance for n in options.requests]
    begin, cells = time.perf_counter(), []
    with ProcessPoolExecutor(options.processes) as pool:
        for cell in pool.map(compared, grid):
            cells.append(cell)
            print(
                f"{cell['profile']:<13} a={cell['acceptance']} n={cell['requests']:<3} {cell['ratio']:.3f} "
                f"(whole {cell['ratio_whole']:.3f})  best {cell['best']:<8} auto {cell['auto']['chosen']}",
                flush=True,
            )
    found = summary(cells)
    print(json.dumps(found, indent=1))
    if not options.dry:
        laws = {name: words for name, (words, _) in PROFILES.items()}
        fields = {
            "learning_seconds": LEARNING,
            "measured_seconds": MEASURED,
            "least_measured": LEAST_MEASURED,
            "profiles": laws,
        }
        seconds = round(time.perf_counter() - begin, 1)
        record("auto", {**fields, "wall_seconds": seconds, "summary": found, "cells": cells})
        Path("docs/images/auto.svg").write_text(picture(cells), encoding="utf-8")


if __name__ == "__main__":
    main()
