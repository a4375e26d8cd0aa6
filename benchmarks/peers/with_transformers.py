"""`transformers`: `generate` of plain decoding, and of generation assisted by the demo's draft model.

The project's own environment has what it needs. Plain decoding takes prompts in batches, each as long as its longest
answer; assisted generation takes one at a time, so it is there with one request only. K is what
transformers chooses as it goes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    given = json.loads((Path(options.inputs) / "inputs.json").read_text(encoding="utf-8"))
    factory: Any = AutoModelForCausalLM
    target = factory.from_pretrained(given["target"], dtype=torch.bfloat16).eval()

    @torch.inference_mode()
    def answer(batch: list[list[int]], **more: Any) -> int:
        """Feed a batch padded on the left; how many tokens its answers have, the end token included."""
        width = max(map(len, batch))
        ids = torch.tensor([[given["end"]] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        made = target.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=given["tokens"], do_sample=False,
            eos_token_id=given["end"], pad_token_id=given["end"], **more,
        )[:, width:]  # fmt: skip
        ends = made == given["end"]
        return int(torch.where(ends.any(1), ends.int().argmax(1) + 1, made.shape[1]).sum())

    draft = factory.from_pretrained(Path(options.inputs) / "draft", dtype=torch.bfloat16).eval()

    def timed(prompts: list[list[int]], concurrency: int, **more: Any) -> dict[str, float]:
        answer(prompts[:concurrency], **more)  # warm
        started = time.perf_counter()
        tokens = sum(answer(prompts[at : at + concurrency], **more) for at in range(0, len(prompts), concurrency))
        seconds = time.perf_counter() - started
        return {"tokens_per_second": tokens / seconds, "output_tokens": tokens, "seconds": seconds}

    print("{}", flush=True)
    for line in sys.stdin:
        concurrency, part = map(int, line.split())
        prompts = given["parts"][part]
        found = {"plain": timed(prompts, concurrency)}
        if concurrency == 1:
            found["assisted"] = timed(prompts, 1, assistant_model=draft)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
