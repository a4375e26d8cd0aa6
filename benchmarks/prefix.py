"""What a common prefix costs: prefill work of 16 requests that share 512 tokens, with and without prefix caching.

    python -m benchmarks.prefix [--requests 16] [--common 512] [--own 16]

The demo pair in the real services, two lanes, default settings; all requests are sent at once. Prefill work is what
went through the model for one new token a request, in tokens, and the seconds until the last request has its token.
Writes benchmarks/results/prefix.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import time
from typing import Any

from benchmarks.record import record
from minedraft.cli.demo_model import DEMO
from minedraft.cli.models import ensure
from minedraft.cli.stack import Stack, StackOptions
from minedraft.client import AsyncClient
from minedraft.generation import GenerateRequest, TokenIds
from minedraft.types import SamplingParams


async def _fed(client: AsyncClient) -> dict[str, int]:
    info = await client.server_info()
    peers = {"verifier": info.verifier, "drafter": info.drafter}
    return {name: peer.state.fed_tokens for name, peer in peers.items() if peer.state is not None}


async def _ask(address: str, prompts: list[tuple[int, ...]]) -> dict[str, Any]:
    sampling = SamplingParams(temperature=0.0, max_new_tokens=2, ignore_eos=True)  # the second token brings the drafter
    async with AsyncClient(address) as client:
        await client.wait_ready(120, drafter=True)
        await client.complete(GenerateRequest(TokenIds(tuple(range(100, 164))), sampling))  # warm
        before, begun = await _fed(client), time.perf_counter()
        requests = [GenerateRequest(TokenIds(prompt), sampling) for prompt in prompts]
        outputs = await asyncio.gather(*(client.complete(request) for request in requests))
        seconds = time.perf_counter() - begun
        after = await _fed(client)
    return {
        "fed_tokens": {name: after[name] - before[name] for name in before},
        "seconds": round(seconds, 2),
        "outputs": [output.token_ids for output in outputs],
    }


def measure(prompts: list[tuple[int, ...]], caching: bool) -> dict[str, Any]:
    """All prompts at once, to fresh services."""
    flags = () if caching else ("--no-prefix-caching",)
    options = StackOptions(
        target=DEMO,
        draft=DEMO,
        lanes=2,
        draft_tokens=4,
        threads_verifier=1,
        threads_drafter=1,
        verifier_flags=flags,
        drafter_flags=flags,
    )
    with Stack(options) as running:
        return asyncio.run(_ask(running.coordinator, prompts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=16)
    parser.add_argument("--common", type=int, default=512)
    parser.add_argument("--own", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    ensure(DEMO)
    dice = random.Random(options.seed)
    common = tuple(dice.randrange(1000, 40000) for _ in range(options.common))
    prompts = [(*common, *(dice.randrange(1000, 40000) for _ in range(options.own))) for _ in range(options.requests)]
    without, shared = measure(prompts, caching=False), measure(prompts, caching=True)
    same = without.pop("outputs") == shared.pop("outputs")
    fields = {
        "requests": options.requests,
        "common_tokens": options.common,
        "own_tokens": options.own,
        "without": without,
        "with": shared,
        "saved": {
            name: round(1 - shared["fed_tokens"][name] / without["fed_tokens"][name], 4)
            for name in shared["fed_tokens"]
        },
        "same_tokens": same,
    }
    print(json.dumps(record("prefix", fields), indent=1))


if __name__ == "__main__":
    main()
