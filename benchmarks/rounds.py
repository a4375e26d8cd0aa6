"""Time between verifications of two lanes over real services, by the time of drafting. Simulated devices.

    python -m benchmarks.rounds [--repeats 2]

A verification sleeps 25 ms, drafting 4 tokens sleeps t in all; every other line of code is the real one, gRPC included.
The theory says max(V, t, (t + V + rtt + o) / 2). V is the time of a verification step at the verifier: its sleep and
the host work of the step. t + V + rtt + o is the time between verifications of one lane alone, measured as well. Each t
with one lane and with two in turn, medians over the repeats. Writes benchmarks/results/rounds.json;
`python -m benchmarks.plots rounds` draws it.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from statistics import median

from benchmarks.busy import once
from benchmarks.record import record

VERIFIER_MS = 25.0
DRAFTS = 4
DRAFTING_MS = (0.0, 5.0, 10.0, 15.0, 20.0, 25.0)
SIZE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=500)
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {f"{lanes} lanes, {t} ms": [] for t in DRAFTING_MS for lanes in (1, 2)}
    for _ in range(options.repeats):
        for t, lanes in product(DRAFTING_MS, (1, 2)):
            simulate = f"drafter={t / DRAFTS}ms,verifier={VERIFIER_MS}ms,accept=0.8"
            found = once(lanes, SIZE, simulate, options.tokens)
            runs[f"{lanes} lanes, {t} ms"].append(found)
            print(t, lanes, json.dumps(found), flush=True)
    rows = []
    for t in DRAFTING_MS:
        one, two = runs[f"1 lanes, {t} ms"], runs[f"2 lanes, {t} ms"]
        alone, apart = (1e3 * median(run["seconds_per_verification"] for run in found) for found in (one, two))
        step = median(1e3 * run["seconds_per_verification"] * run["verifier_engine_busy"] for run in two)
        theory = max(step, t, alone / 2)
        rows.append(
            {
                "drafting_ms": t,
                "apart_ms": round(apart, 3),
                "verification_step_ms": round(step, 3),
                "over_the_sleep": round(apart / max(VERIFIER_MS, t), 4),
                "one_lane_apart_ms": round(alone, 3),
                "theory_ms": round(theory, 3),
                "over_theory": round(apart / theory, 4),
            }
        )
    fields = {"verifier_ms": VERIFIER_MS, "draft_tokens": DRAFTS, "lane_size": SIZE, "repeats": options.repeats}
    print(json.dumps(record("rounds", fields | {"rows": rows, "runs": runs})["rows"], indent=1))


if __name__ == "__main__":
    main()
