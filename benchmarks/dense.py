"""Dense laws against top-M laws at a large vocabulary: does the verifier stay busy? Simulated devices, real channels.

    python -m benchmarks.dense [--repeats 3] [--simulate drafter=1ms,verifier=25ms,accept=0.8,vocab=152064]

Two lanes of 8 requests at temperature 1, K=4. A dense round sends 8 x 4 x 152,064 laws in 16 bits from the drafter to
the verifier, 9.7 MB. On a CPU the laws themselves are the larger part of the work: softmax, cumulated sums and
residuals over 152,064 tokens cost both sides as much as the simulated devices do, and count as busy; `verifier_busy`
is the device alone.
Writes benchmarks/results/dense.json.
"""

from __future__ import annotations

import argparse
import json
import statistics

from benchmarks.busy import FIELDS, once
from benchmarks.record import record

WAYS = {
    "dense over shm": ("--draft-law", "dense", "--channel", "shm"),
    "top_m in the reply": ("--draft-law", "top_m"),
    "dense inline": ("--draft-law", "dense", "--channel", "inline"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--simulate", default="drafter=1ms,verifier=25ms,accept=0.8,vocab=152064")
    parser.add_argument("--tokens", type=int, default=300)
    options = parser.parse_args()
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(options.repeats):
        for way, flags in WAYS.items():
            runs[way].append(once(2, 8, options.simulate, options.tokens, "--temperature", "1", *flags))
            print(way, json.dumps(runs[way][-1]), flush=True)
    medians = {
        way: {name: round(statistics.median(run[name] for run in found), 5) for name in FIELDS}
        for way, found in runs.items()
    }
    fields = {
        "simulate": options.simulate,
        "requests": 16,
        "draft_tokens": 4,
        "tokens_a_request": options.tokens,
        "repeats": options.repeats,
        "medians": medians,
    }
    print(json.dumps(record("dense", fields), indent=1))


if __name__ == "__main__":
    main()
