"""An enemy of the three services: right, changed, random and damaged messages of every method, over real loopback gRPC.

    python -m benchmarks.fuzz_grpc [--messages 100000] [--seed 0]

The services are real processes over simulated models. The enemy calls the coordinator as a client and the model
services as a coordinator. Meanwhile and afterwards a right request must get exactly the right tokens. UNKNOWN,
INTERNAL, UNAVAILABLE, a call that does not end, a traceback in a log and a service that ends are faults. Writes
benchmarks/results/fuzz_grpc.json; exits with 1 after a fault.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

import grpc

from benchmarks.record import record
from minedraft.cli.stack import Stack, StackOptions
from minedraft.errors import MinedraftError
from tests.services.fuzzing import DRAFTER, GENERATION, MODEL_FLAGS, SIMULATED, VERIFIER, Fault, Fuzz

TOLD_EVERY = 10.0  # seconds
TOLD_FAULTS = 20


class Logs:
    """The lines of all services that tell of a fault. Appended to by the threads that read the logs."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def __call__(self, service: str, line: str) -> None:
        if "Traceback" in line or "[error" in line or '"level": "error"' in line:
            self.faults.append(f"{service}: {line}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    logs = Logs()
    options = StackOptions(
        simulate=SIMULATED, draft_law="dense", restart=False, verifier_flags=MODEL_FLAGS, drafter_flags=MODEL_FLAGS
    )
    with Stack(options, log=logs) as stack:
        addresses = {GENERATION: stack.coordinator, DRAFTER: stack.drafter, VERIFIER: stack.verifier}
        fields, faults = _measure(Fuzz(addresses, wanted.seed), wanted.messages)
    faults += logs.faults
    record("fuzz_grpc", fields | {"faults": len(faults)})
    for fault in faults[:TOLD_FAULTS]:
        print(fault, file=sys.stderr)
    print(f"{fields['messages']} messages, {len(faults)} faults: {fields['statuses']}")
    sys.exit(1 if faults else 0)


def _measure(fuzz: Fuzz, messages: int) -> tuple[dict[str, Any], list[str]]:
    started = told = time.perf_counter()

    def progress(sent: int) -> None:
        nonlocal told
        now = time.perf_counter()
        if now - told >= TOLD_EVERY:
            told = now
            print(f"{sent} messages, {sent / (now - started):.0f} a second", file=sys.stderr, flush=True)

    ends: list[str] = []
    try:
        fuzz.run(messages, progress=progress)
    except (Fault, MinedraftError, grpc.RpcError) as fault:
        ends = [f"{type(fault).__name__}: {fault}"]
    fields = {
        "seed": fuzz.seed,
        "messages": fuzz.sent,
        "messages_by_type": dict(sorted(fuzz.messages.items())),
        "statuses": dict(sorted(fuzz.codes.items())),
        "answers_of_streams": dict(sorted(fuzz.answers.items())),
        "generates_right_and_serving_after": not ends,
        "seconds": round(time.perf_counter() - started),
    }
    return fields, [*fuzz.faults, *ends]


if __name__ == "__main__":
    main()
