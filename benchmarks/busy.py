"""How busy two lanes keep the verifier: simulated devices, every other line of code the real one.

    python -m benchmarks.busy [--repeats 5] [--simulate drafter=5ms,verifier=25ms,accept=0.8]

Three ways to serve: two lanes of 8, one lane of 8 (standard speculative decoding), one lane of 16 (as many requests in
flight as two lanes of 8). Each is a closed loop over `minedraft bench` in processes of its own; the ways take turns,
and medians over the repeats are kept. `verifier_busy` is time in forward passes over wall time,
`verifier_engine_busy` adds the host work of its steps; all of the steady part, in which every place is taken.
Writes benchmarks/results/busy.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.record import record

WAYS = {"two lanes of 8": (2, 8), "one lane of 8": (1, 8), "one lane of 16": (1, 16)}
FIELDS = ("verifier_engine_busy", "verifier_busy", "overlap", "seconds_per_verification", "tokens_per_second")


def once(lanes: int, size: int, simulate: str, tokens: int, *flags: str) -> dict[str, float]:
    """One closed loop with every place taken; what its steady part showed."""
    requests = str(lanes * size)
    command = [
        str(Path(sys.executable).with_name("minedraft")), "bench", "--simulate", simulate, "--lanes", str(lanes),
        "--draft-tokens", "4", "--lane-size", str(size), "--concurrency", requests, "--requests", requests,
        "--warmup", "0", "--max-new-tokens", str(tokens), "--ignore-eos", "--threads-verifier", "1",
        "--threads-drafter", "1", "--json", *flags,
    ]  # fmt: skip
    fields = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    steady = fields["steady"] or {}
    return {name: float(steady.get(name, fields.get(name) or 0.0)) for name in FIELDS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--simulate", default="drafter=5ms,verifier=25ms,accept=0.8")
    parser.add_argument("--tokens", type=int, default=900)
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way, (lanes, size) in WAYS.items():
            runs[way].append(once(lanes, size, options.simulate, options.tokens))
            print(way, json.dumps(runs[way][-1]), flush=True)
    medians = {
        way: {name: round(statistics.median(run[name] for run in found), 5) for name in FIELDS}
        for way, found in runs.items()
    }
    two, eight, sixteen = (medians[way]["tokens_per_second"] for way in WAYS)
    fields: dict[str, Any] = {
        "simulate": options.simulate,
        "draft_tokens": 4,
        "tokens_a_request": options.tokens,
        "repeats": options.repeats,
        "medians": medians,
        "two_lanes_over_one_lane": round(two / eight, 3),
        "two_lanes_over_one_lane_at_equal_requests": round(two / sixteen, 3),
        "runs": runs,
    }
    report = record("busy", fields)
    print(json.dumps({name: report[name] for name in report if name != "runs"}, indent=1))


if __name__ == "__main__":
    main()
