"""The demo pair under `auto` against plain decoding by the same engine on the same cores, and against peers.

    python -m benchmarks.speed [--loads 1,2,4,8] [--turns 6] [--peers NAME=PYTHON,...]

Both stacks are up all the time and one of them has work: greedy answers to the trial prompts, through the chat
template, up to 128 tokens, in a closed loop. At each load auto runs once unmeasured, which is when it learns; then the
stacks take turns, each with every other prompt, the other ones in the next turn. A shared machine changes its speed
within a minute, so each way is compared with what ran right beside it: the ratios are medians over turns. With
--peers, e.g. `vllm=/envs/vllm/bin/python`, the same prompts go to benchmarks/peers/with_NAME.py under that
interpreter in the same turns; it has its models loaded and warm all the time (benchmarks/peers/README.md). Writes
benchmarks/results/speed.json, or what --name says.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.peers.inputs import prepare
from benchmarks.record import record
from minedraft.cli.bench import load
from minedraft.cli.bench.report import report
from minedraft.cli.demo_model import DEMO
from minedraft.cli.models import ensure
from minedraft.cli.stack import Stack, StackOptions
from minedraft.client import AsyncClient
from minedraft.distill.prompts import read_prompts
from minedraft.generation import Chat, ChatMessage, GenerateRequest
from minedraft.types import SamplingParams

PROMPTS = Path(__file__).parent / "prompts" / "trial.jsonl"
PEERS = Path(__file__).parent / "peers"
TOKENS = 128
PLAIN, AUTO = "plain", "auto"
PARTS = 2  # of the prompts; a turn has one of them
KEPT = ("tokens_per_second", "output_tokens", "seconds", "ttft_ms", "itl_ms", "latency_ms", "acceptance_length")


def served(address: str, prompts: Sequence[str], concurrency: int) -> dict[str, Any]:
    """One closed loop over all prompts."""
    sampling = SamplingParams(temperature=0.0, max_new_tokens=TOKENS)
    requests = [GenerateRequest(Chat((ChatMessage("user", text),)), sampling) for text in prompts]

    async def measured() -> dict[str, Any]:
        async with AsyncClient(address) as client:
            await client.wait_ready(60)
            found = await load.run(client, requests, concurrency, lambda _: None)
        fields = report(found)
        if fields["failed"]:
            raise SystemExit(f"requests failed: {fields['errors']}")
        choice = found.after.info.choice
        return {name: fields[name] for name in KEPT} | {"lanes": choice.lanes, "draft_tokens": choice.draft_tokens}

    return asyncio.run(measured())


def over(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median over turns of our tokens a second over theirs."""
    return round(statistics.median(one / other for one, other in zip(ours, theirs, strict=True)), 3)


class Peer:
    """A peer's process, with its models loaded; at work only while it is asked."""

    def __init__(self, name: str, python: str, inputs: Path, cores: int, ways: str) -> None:
        self.name = name
        command = [python, str(PEERS / f"with_{name}.py"), "--inputs", str(inputs), "--threads", str(cores)]
        command += ["--ways", ways] if ways else []
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._answer()  # its models are loaded

    def run(self, concurrency: int, part: int) -> dict[str, dict[str, Any]]:
        """The figures of its ways over a part of the prompts, by their names."""
        if self._process.stdin is None:
            raise SystemExit("no pipe")
        self._process.stdin.write(f"{concurrency} {part}\n")
        self._process.stdin.flush()
        return {f"{self.name} {way}": fields for way, fields in self._answer().items()}

    def _answer(self) -> dict[str, dict[str, Any]]:
        for line in self._process.stdout or ():
            if line.startswith("{"):
                found: dict[str, dict[str, Any]] = json.loads(line)
                return found
        raise SystemExit(f"{self.name} ended with {self._process.wait()}")

    def close(self) -> None:
        self._process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loads", default="1,2,4,8")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--peers", default="")
    parser.add_argument("--ways", default="", help="of vllm: only those whose names begin so, such as plain")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--name", default="speed")
    options = parser.parse_args()
    peers = dict(pair.split("=", 1) for pair in options.peers.split(",") if pair)
    cores = len(os.sched_getaffinity(0))
    ensure(DEMO)
    prompts = list(read_prompts(PROMPTS))
    prompts = prompts[:: len(prompts) // options.prompts]
    parts = [prompts[part::PARTS] for part in range(PARTS)]
    auto = StackOptions(target=DEMO, draft=DEMO, dtype=options.dtype, log_level="warning")
    plain = replace(auto, draft="none", lanes=1, draft_tokens=0)
    rows = []
    with ExitStack() as opened:
        others = []
        if peers:
            inputs = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="minedraft-")))
            prepare(inputs, parts, TOKENS)
            others = [Peer(name, python, inputs, cores, options.ways) for name, python in peers.items()]
            for other in others:
                opened.callback(other.close)
        plain_stack, auto_stack = opened.enter_context(Stack(plain)), opened.enter_context(Stack(auto))
        stacks = {PLAIN: plain_stack.coordinator, AUTO: auto_stack.coordinator}
        for concurrency in map(int, options.loads.split(",")):
            runs: dict[str, list[dict[str, Any]]] = {}
            served(stacks[AUTO], prompts[: max(10, 2 * concurrency)], concurrency)
            served(stacks[PLAIN], prompts[: 2 * concurrency], concurrency)
            for turn in range(options.turns):
                for name in sorted(stacks, reverse=bool(turn // PARTS % 2)):
                    runs.setdefault(name, []).append(served(stacks[name], parts[turn % PARTS], concurrency))
                for other in others:
                    for way, fields in other.run(concurrency, turn % PARTS).items():
                        runs.setdefault(way, []).append(fields)
            rates = {name: [run["tokens_per_second"] for run in found] for name, found in runs.items()}
            rows.append(
                {
                    "requests": concurrency,
                    "tokens_per_second": {name: round(statistics.median(found), 2) for name, found in rates.items()},
                    "auto_over": {name: over(rates[AUTO], found) for name, found in rates.items() if name != AUTO},
                    "runs": runs,
                }
            )
            print(json.dumps({name: value for name, value in rows[-1].items() if name != "runs"}), flush=True)
            record(
                options.name,
                {
                    "prompts": PROMPTS.name, "count": len(prompts), "tokens_a_prompt": TOKENS, "cores": cores,
                    "parts": PARTS, "dtype": options.dtype, "turns": options.turns, "rows": rows,
                },
            )  # fmt: skip


if __name__ == "__main__":
    main()
