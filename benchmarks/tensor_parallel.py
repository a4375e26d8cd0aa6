"""Greedy equality of a verifier split over ranks with `transformers`: 24 prompts x 64 tokens, fp32, prompt lookup.

    python -m benchmarks.tensor_parallel [--target FOLDER] [--ranks 3] [--prompts 24] [--tokens 64]

Writes benchmarks/results/tensor_parallel.json: `--target` (by default the demo model, whose 3 KV heads split over 3
ranks alone) and a random Llama with 2 KV heads, each on one rank and on several. All ranks share this machine's cores,
over gloo, with one thread each: the figures say that the tokens are the same, not how fast ranks with devices of their
own are.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.equality import prompts, references, served
from benchmarks.record import record
from minedraft.cli.stack import Stack, StackOptions
from minedraft.config import CliSettings
from tests.models import tiny_llama

DTYPE = "float32"
DRAFT_TOKENS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=CliSettings().demo_folder)
    parser.add_argument("--ranks", type=int, default=3)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="minedraft-tiny-") as folder:
        tiny = tiny_llama(Path(folder) / "random-llama-2-kv-heads", dtype=DTYPE)
        for target, ranks in ((tiny, 2), (options.target, options.ranks)):
            pairs = references(target, prompts(options.prompts), options.tokens, DTYPE)
            for count in (1, ranks):
                rows.append(measured(target, count, pairs, options.tokens))
                print(json.dumps(rows[-1]), flush=True)
    record("tensor_parallel", {"dtype": DTYPE, "prompts": options.prompts, "new_tokens": options.tokens, "rows": rows})


def measured(target: Path, ranks: int, pairs: list[tuple[list[int], list[int]]], tokens: int) -> dict[str, Any]:
    """Serve all prompts at once with a verifier of so many ranks."""
    stack = StackOptions(
        target=str(target),
        draft="ngram",
        draft_tokens=DRAFT_TOKENS,
        dtype=DTYPE,
        threads_verifier=1,
        verifier_flags=("--tensor-parallel", str(ranks)),
    )
    with Stack(stack) as running:
        begun = time.perf_counter()
        equal, total, length = asyncio.run(served(running.coordinator, pairs, tokens))
        seconds = time.perf_counter() - begun
    return {
        "model": target.name,
        "ranks": ranks,
        "equal_tokens": equal,
        "tokens": total,
        "acceptance_length": round(length, 3),
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
