"""What watching costs: throughput with metrics, timeline and traces against none of them, side by side.

    python -m benchmarks.watched [--seconds 10] [--repeats 5] [--concurrency 16] [--sample 0.05]

Two stacks of simulated devices run one after the other in turn, each for `seconds` after a warm-up: one with
`--timeline-steps 0` and nothing else, one with metrics on all services, scraped every second, the timeline, and
requests traced to a collector in a process of its own. Writes benchmarks/results/watched.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from benchmarks.record import record
from minedraft.cli.stack import Stack, StackOptions
from minedraft.client import AsyncClient
from minedraft.generation import GenerateRequest, TokenIds
from minedraft.types import SamplingParams

SIMULATE: Final = "drafter=3ms,verifier=25ms,accept=0.8,vocab=32000"
TOKENS: Final = 64
SCRAPE_SECONDS: Final = 1.0
PORTS: Final = {"verifier": 19301, "drafter": 19302, "coordinator": 19303}
COLLECTOR: Final = """
import grpc, time
from concurrent.futures import ThreadPoolExecutor
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb, trace_service_pb2_grpc as pb_grpc
class Servicer(pb_grpc.TraceServiceServicer):
    spans = 0
    def Export(self, request, context):
        self.spans += sum(len(s.spans) for r in request.resource_spans for s in r.scope_spans)
        return pb.ExportTraceServiceResponse()
server = grpc.server(ThreadPoolExecutor(2))
servicer = Servicer()
pb_grpc.add_TraceServiceServicer_to_server(servicer, server)
print(server.add_insecure_port("127.0.0.1:0"), flush=True)
server.start()
input()
print(servicer.spans, flush=True)
"""


async def _throughput(address: str, seconds: float, concurrency: int) -> float:
    """Tokens a second of a closed loop, after two seconds of it."""
    sampling = SamplingParams(temperature=0.0, max_new_tokens=TOKENS, ignore_eos=True)
    over = False

    async def caller(client: AsyncClient, number: int) -> None:
        request = GenerateRequest(TokenIds(tuple(range(100 + number, 132 + number))), sampling)
        while not over:
            async for _ in client.generate(request):
                pass

    async with AsyncClient(address) as client:
        await client.wait_ready(60, drafter=True)
        tasks = [asyncio.create_task(caller(client, number)) for number in range(concurrency)]
        await asyncio.sleep(2.0)
        before, begun = (await client.server_info()).speculation.emitted_tokens, time.perf_counter()
        await asyncio.sleep(seconds)
        emitted = (await client.server_info()).speculation.emitted_tokens - before
        rate = emitted / (time.perf_counter() - begun)
        over = True
        await asyncio.gather(*tasks)
    return rate


@contextmanager
def _scraped() -> Iterator[list[int]]:
    """Every service's metrics, read again and again; yields how long the answers were."""
    over, lengths = threading.Event(), []

    def scrape() -> None:
        while not over.wait(SCRAPE_SECONDS):
            for port in PORTS.values():
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                    lengths.append(len(answer.read()))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield lengths
    finally:
        over.set()
        thread.join()


def _options(collector: str, sample: float) -> StackOptions:
    """Watched by all means, or, without a collector, by none."""
    flags: dict[str, tuple[str, ...]] = dict.fromkeys(PORTS, ())
    if collector:
        traced = ("--otlp", collector, "--trace-sample", str(sample))
        flags = {name: ("--metrics", f"127.0.0.1:{port}", *traced) for name, port in PORTS.items()}
    else:
        flags["coordinator"] = ("--timeline-steps", "0")
    return StackOptions(
        simulate=SIMULATE,
        lanes=2,
        draft_tokens=4,
        log_level="warning",
        verifier_flags=flags["verifier"],
        drafter_flags=flags["drafter"],
        coordinator_flags=flags["coordinator"],
    )


def measure(seconds: float, repeats: int, concurrency: int, sample: float) -> dict[str, Any]:
    """Both stacks are up all the time; only one of them has work."""
    collector = subprocess.Popen(
        [sys.executable, "-c", COLLECTOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    if collector.stdin is None or collector.stdout is None:
        raise RuntimeError("the collector has no pipes")
    endpoint = f"http://127.0.0.1:{collector.stdout.readline().strip()}"
    rates: dict[str, list[float]] = {"unwatched": [], "watched": []}
    with Stack(_options("", 0.0)) as bare, Stack(_options(endpoint, sample)) as watched, _scraped() as scrapes:
        stacks = {"unwatched": bare.coordinator, "watched": watched.coordinator}
        for repeat in range(repeats):
            for name in sorted(stacks, reverse=bool(repeat % 2)):
                rates[name].append(asyncio.run(_throughput(stacks[name], seconds, concurrency)))
            print({name: round(values[-1], 1) for name, values in rates.items()}, flush=True)
    collector.stdin.write("\n")
    collector.stdin.flush()
    spans = int(collector.stdout.readline())
    collector.wait()
    ratios = [watched / bare for watched, bare in zip(rates["watched"], rates["unwatched"], strict=True)]
    return {
        "tokens_per_second": {name: [round(value, 1) for value in values] for name, values in rates.items()},
        "median": {name: round(statistics.median(values), 1) for name, values in rates.items()},
        "ratio": round(statistics.median(ratios), 4),
        "cost": round(1 - statistics.median(ratios), 4),
        "spans": spans,
        "scrapes": len(scrapes),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--sample", type=float, default=0.05)
    options = parser.parse_args()
    settings = {"simulate": SIMULATE, "tokens_a_request": TOKENS, **vars(options)}
    found = measure(options.seconds, options.repeats, options.concurrency, options.sample)
    suffix = "" if options.sample == 0.05 else f"-{options.sample:g}"
    print(json.dumps(record(f"watched{suffix}", settings | found), indent=1))


if __name__ == "__main__":
    main()
