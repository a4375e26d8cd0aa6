"""How often the demo's drafter is right, by the probability that it gives its likeliest token.

    python -m benchmarks.chances [--prompts benchmarks/prompts/trial.jsonl] [--tokens 128]

The target answers every prompt greedily, through the chat template; then the draft model reads the answers and says at
each place what it would have drafted. Both by the engine that serves them. Writes benchmarks/results/chances.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.record import record
from drafter_service.proposers.chances import largest_probabilities
from minedraft.cli.demo_model import DEMO, draft_path, model_path
from minedraft.cli.models import ensure
from minedraft.distill.prompts import read_prompts
from minedraft.engine.opening import open_model
from minedraft.engine.runner import Engine, Feed, Sequence
from minedraft.sampling.law import argmax
from minedraft.types import AcceptanceRule, DraftItem, SamplingParams, SequenceParams

PROMPTS = Path(__file__).parent / "prompts" / "trial.jsonl"
BINS = 10


def engine(path: str, *, int8: bool) -> Engine:
    model, _ = open_model(path, self_check=False, int8=int8)
    return Engine(model, 128, 16, "bench")


def feed(on: Engine, base: int, tokens: list[int], wanted: int) -> Tensor:
    """Logits of the last `wanted` of the tokens that follow the first `base` of the one sequence. [wanted, V]"""
    params = SequenceParams(len(tokens), 1, AcceptanceRule.REJECTION, SamplingParams(temperature=0.0))
    begun = on.begin("bench", DraftItem(1, base, tuple(tokens), params, 0), reserve=0)
    if not isinstance(begun, Sequence):
        raise SystemExit(begun.reason)
    return on.forward([Feed(begun, begun.feed, num_logits=wanted)])


def answer(target: Engine, prompt: list[int], tokens: int) -> list[int]:
    """Greedy, without an end of text."""
    found: list[int] = []
    while len(found) < tokens:
        base = len(prompt) + len(found) - 1 if found else 0
        (token,) = argmax(feed(target, base, found[-1:] or prompt, 1))
        if token in target.info.eos_token_ids:
            break
        found.append(token)
    target.release("bench", [1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=Path, default=PROMPTS)
    parser.add_argument("--tokens", type=int, default=128)
    options = parser.parse_args()
    from transformers import AutoTokenizer

    ensure(DEMO)
    factory: Any = AutoTokenizer
    tokenizer = factory.from_pretrained(model_path(DEMO))
    target, drafter = engine(model_path(DEMO), int8=False), engine(draft_path(DEMO, DEMO), int8=True)
    seen, right = [0] * BINS, [0] * BINS
    for text in read_prompts(options.prompts):
        turn = [{"role": "user", "content": text}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True)["input_ids"]
        real = answer(target, prompt, options.tokens)
        logits = feed(drafter, 0, [*prompt, *real[:-1]], len(real))
        drafter.release("bench", [1])
        drafts = torch.tensor(argmax(logits))
        drafts = drafts if drafter.logit_token_ids is None else drafter.logit_token_ids[drafts]
        for probability, draft, token in zip(largest_probabilities(logits), drafts.tolist(), real, strict=True):
            place = min(int(probability * BINS), BINS - 1)
            seen[place] += 1
            right[place] += draft == token
    rows = [
        {
            "probability_from": place / BINS,
            "share": round(seen[place] / sum(seen), 3),
            "right": round(right[place] / max(seen[place], 1), 3),
        }
        for place in range(BINS)
    ]
    fields = {"prompts": options.prompts.name, "tokens": sum(seen), "right": sum(right) / sum(seen), "rows": rows}
    print(json.dumps(record("chances", fields)["rows"], indent=1))


if __name__ == "__main__":
    main()
