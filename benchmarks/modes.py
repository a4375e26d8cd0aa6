"""Ways to serve, side by side: plain decoding, one lane, two lanes of its size, two with as many requests, auto.

    python -m benchmarks.modes --name sim --simulate drafter=5ms,verifier=25ms,accept=0.8
    python -m benchmarks.modes --name demo [--eos] [--rate REQUESTS_A_SECOND] [--draft-tokens 4]

Each way has services of its own, all up all the time; one has work, and the ways take turns. Closed loop: as many
requests in flight as the way has places, 4 for each, so that two lanes of the same size have twice as many. With --rate
requests arrive at random, at the same moments for each way. Answers are of one length, unless --eos lets them end.
Without --simulate the demo pair is served, and every service has all cores. Medians over the repeats are kept, all runs
are recorded. Writes benchmarks/results/modes-NAME.json; `python -m benchmarks.plots modes-NAME` draws it.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.record import record
from minedraft.cli.bench import load
from minedraft.cli.bench.prompts import cycled, from_file
from minedraft.cli.bench.report import report
from minedraft.cli.demo_model import DEMO
from minedraft.cli.models import ensure
from minedraft.cli.stack import Stack, StackOptions
from minedraft.client import AsyncClient
from minedraft.generation import Chat, ChatMessage, GenerateRequest, Text
from minedraft.types import SamplingParams

PROMPTS: Final = Path(__file__).parent / "prompts" / "trial.jsonl"
ROUNDS_OF_REQUESTS: Final = 4
MEDIANS: Final = (
    "tokens_per_second", "tokens_per_second_per_device", "acceptance_length", "verifier_busy", "drafter_busy",
    "overlap", "seconds_per_verification",
)  # fmt: skip
PERCENTILES: Final = ("ttft_ms", "itl_ms", "latency_ms")


@dataclass(frozen=True)
class Way:
    """How a stack serves, and how many requests a closed loop gives it."""

    name: str
    lanes: int | str
    lane_size: int
    draft_tokens: int | str
    requests: int
    draft: str = "auto"

    @property
    def devices(self) -> int:
        return 1 if self.draft == "none" else 2


def ways(size: int, drafts: int) -> list[Way]:
    return [
        Way("plain decoding", 1, size, 0, size, draft="none"),
        Way("one lane", 1, size, drafts, size),
        Way("two lanes, same size", 2, size, drafts, 2 * size),
        Way("two lanes, same requests", 2, size // 2, drafts, size),
        Way("auto", "auto", size, "auto", size),
    ]


def stack_of(way: Way, models: dict[str, str], cores: int) -> StackOptions:
    return StackOptions(
        **models, draft=way.draft, lanes=way.lanes, lane_size=way.lane_size, draft_tokens=way.draft_tokens,
        threads_verifier=cores, threads_drafter=cores, log_level="warning",
    )  # fmt: skip


def served(address: str, way: Way, requests: list[GenerateRequest], rate: float, seed: int) -> dict[str, Any]:
    """One load; all that `minedraft bench` reports of it."""

    async def measured() -> dict[str, Any]:
        async with AsyncClient(address) as client:
            await client.wait_ready(60)
            if rate:
                moments = load.poisson(len(requests), rate, seed)
                found = await load.arrive(client, requests, moments, lambda _: None)
            else:
                found = await load.run(client, requests, way.requests, lambda _: None)
        return report(found, way.devices)

    fields = asyncio.run(measured())
    if fields["failed"]:
        raise SystemExit(f"{way.name}: requests failed: {fields['errors']}")
    return fields


def middle(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians of the runs; of the steady part where there is one."""

    def median(values: list[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return round(statistics.median(known), 5) if known else None

    parts = [{**run, **(run["steady"] or {})} for run in runs]
    return {
        **{name: median([part[name] for part in parts]) for name in MEDIANS},
        **{
            name: {share: median([run[name][share] for run in runs]) for share in runs[0][name]} for name in PERCENTILES
        },
        "acceptance_by_position": runs[-1]["acceptance_by_position"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--name", required=True)
    parser.add_argument("--simulate", default="")
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--draft-tokens", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--eos", action="store_true")
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--requests", type=int, default=0, help="of a run with --rate; default: 4 for each place")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    sampling = SamplingParams(
        temperature=options.temperature, max_new_tokens=options.tokens, ignore_eos=not options.eos, seed=options.seed
    )
    models = {"simulate": options.simulate} if options.simulate else {"target": DEMO}
    if not options.simulate:
        ensure(DEMO)
    cores = len(os.sched_getaffinity(0))

    def requests(count: int) -> list[GenerateRequest]:
        texts = cycled(from_file(PROMPTS), count)
        made = [Text(text) if options.simulate else Chat((ChatMessage("user", text),)) for text in texts]
        return [GenerateRequest(prompt, sampling) for prompt in made]

    table = ways(options.size, options.draft_tokens)
    runs: dict[str, list[dict[str, Any]]] = {way.name: [] for way in table}
    with ExitStack() as opened:
        stacks = {way.name: opened.enter_context(Stack(stack_of(way, models, cores))) for way in table}
        for way in table:  # unmeasured: auto learns, all get warm
            served(stacks[way.name].coordinator, way, requests(2 * way.requests), 0.0, 0)
        for repeat in range(options.repeats):
            for way in table if repeat % 2 == 0 else reversed(table):
                count = (options.requests or ROUNDS_OF_REQUESTS * options.size) if options.rate else 0
                given = requests(count or ROUNDS_OF_REQUESTS * way.requests)
                fields = served(stacks[way.name].coordinator, way, given, options.rate, options.seed + repeat)
                runs[way.name].append(fields)
                print(way.name, fields["tokens_per_second"], fields["latency_ms"], flush=True)
    record(
        f"modes-{options.name}",
        {
            "settings": vars(options) | {"cores": cores, "prompts": PROMPTS.name},
            "ways": [vars(way) | {"devices": way.devices} for way in table],
            "medians": {name: middle(found) for name, found in runs.items()},
            "runs": runs,
        },
    )


if __name__ == "__main__":
    main()
