"""Greedy equality with `transformers`: 24 prompts x 64 tokens, lanes 1, 2, 3 x K 0, 1, 4, 8 x both proposers, fp32.

    python -m benchmarks.equality [--target FOLDER] [--draft FOLDER|demo] [--proposers ngram,model] [--prompts 24]
                                  [--tokens 64] [--dtype float32]

Writes benchmarks/results/equality.json, or equality-DRAFT.json. The three services run as processes of their own.
`--draft` is the draft model for the proposer `model`: by default a copy of the target, cut to its first and last two
layers.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.record import record
from benchmarks.truncate import truncated_copy
from minedraft.cli.demo_model import DEMO, draft_path
from minedraft.cli.stack import Stack, StackOptions
from minedraft.client import AsyncClient
from minedraft.config import CliSettings
from minedraft.generation import GenerateRequest, TokenIds
from minedraft.types import SamplingParams

SUBJECTS = ["tides", "a violin", "prime numbers", "the Silk Road", "bread", "glaciers", "a lighthouse", "chess"]
FORMS = ["Write three sentences about {}.", "List five facts about {}.", "Rewrite this politely: give me {} now!"]


def prompts(count: int) -> list[str]:
    return [form.format(subject) for subject in SUBJECTS for form in FORMS][:count]


def references(target: Path, texts: list[str], tokens: int, dtype: str) -> list[tuple[list[int], list[int]]]:
    """(prompt ids, generated ids) of `generate`, one prompt at a time, with its own cache and attention."""
    tokenizer = AutoTokenizer.from_pretrained(target)
    model = AutoModelForCausalLM.from_pretrained(target, dtype=getattr(torch, dtype)).eval()
    pairs = []
    for text in texts:
        chat = [{"role": "user", "content": text}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        out = model.generate(**ids, max_new_tokens=tokens, do_sample=False)
        length = ids["input_ids"].shape[1]
        pairs.append((out[0, :length].tolist(), out[0, length:].tolist()))
    return pairs


async def served(address: str, pairs: list[tuple[list[int], list[int]]], tokens: int) -> tuple[int, int, float]:
    """(equal tokens, all tokens, acceptance length) over all prompts sent at once."""
    sampling = SamplingParams(temperature=0.0, max_new_tokens=tokens)
    async with AsyncClient(address) as client:
        await client.wait_ready(120)
        requests = [GenerateRequest(TokenIds(tuple(prompt)), sampling) for prompt, _ in pairs]
        outputs = await asyncio.gather(*(client.complete(request) for request in requests))
        info = await client.server_info()
    equal = total = 0
    for output, (_, wanted) in zip(outputs, pairs, strict=True):
        total += max(len(wanted), len(output.token_ids))
        equal += sum(a == b for a, b in zip(output.token_ids, wanted, strict=False))
    return equal, total, info.speculation.acceptance_length


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=Path, default=CliSettings().demo_folder)
    parser.add_argument("--draft", default="")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--proposers", default="ngram,model")
    options = parser.parse_args()
    torch.set_num_threads(2)
    pairs = references(options.target, prompts(options.prompts), options.tokens, options.dtype)
    draft = options.draft or truncated_copy(options.target, (0, 1, -2, -1))
    if draft == DEMO:
        draft = draft_path(DEMO, DEMO)
    rows: list[dict[str, Any]] = []
    for proposer in options.proposers.split(","):
        folder = "ngram" if proposer == "ngram" else str(draft)
        for lanes in (1, 2, 3):
            for drafts in (0, 1, 4, 8):
                stack = StackOptions(
                    target=str(options.target), draft=folder, lanes=lanes, draft_tokens=drafts, dtype=options.dtype
                )
                begun = time.perf_counter()
                with Stack(stack) as running:
                    equal, total, length = asyncio.run(served(running.coordinator, pairs, options.tokens))
                row = {
                    "proposer": proposer,
                    "lanes": lanes,
                    "draft_tokens": drafts,
                    "equal_tokens": equal,
                    "tokens": total,
                    "acceptance_length": round(length, 3),
                    "seconds": round(time.perf_counter() - begun, 1),
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
    fields = {"dtype": options.dtype, "prompts": len(pairs), "rows": rows}
    record(f"equality-{Path(options.draft).name}" if options.draft else "equality", fields)


if __name__ == "__main__":
    main()
