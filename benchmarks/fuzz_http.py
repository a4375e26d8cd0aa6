"""Random bodies against the HTTP door in this process, in front of a coordinator without models.

    python -m benchmarks.fuzz_http [--examples 100000]

Every answer must be one that a client could expect: never a 500, and the door healthy at the end. The first body that
breaks this is made as small as it can be, and told. Writes benchmarks/results/fuzz_http.json.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time

import structlog

from benchmarks.record import record
from tests.http.fuzzing import Fuzz

TOLD_EVERY = 5000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=100_000)
    wanted = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    started = time.perf_counter()

    def progress(done: int) -> None:
        if done % TOLD_EVERY == 0:
            print(f"{done} bodies, {done / (time.perf_counter() - started):.0f} a second", file=sys.stderr, flush=True)

    statuses = Fuzz().run(wanted.examples, progress)
    seconds = time.perf_counter() - started
    answers = {str(status): count for status, count in sorted(statuses.items())}
    record(
        "fuzz_http", {"examples": sum(statuses.values()), "answers": answers, "faults": 0, "seconds": round(seconds)}
    )
    print(f"{sum(statuses.values())} bodies, no fault: {answers}")


if __name__ == "__main__":
    main()
