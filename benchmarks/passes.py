"""One pass of the demo target in the verifier's engine and in `transformers` (eager), one thread, in turns.

    python -m benchmarks.passes [--dtype bfloat16] [--context 128] [--repeats 25]

(batch, q): sequences in the pass, and tokens of each. `transformers` gets its own DynamicCache with the same context,
cropped after each pass. Medians. Writes benchmarks/results/passes-DTYPE.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks.record import record
from minedraft.cli.demo_model import DEMO, model_path
from minedraft.cli.models import ensure
from minedraft.engine.opening import open_model
from minedraft.engine.runner import Engine, Feed, Sequence
from minedraft.types import AcceptanceRule, SamplingParams, SequenceParams, VerifyItem

SHAPES = ((1, 1), (1, 5), (4, 5), (8, 1), (8, 5))
BLOCK_SIZE = 16


class Ours:
    """The verifier's engine with `batch` sequences of `context` tokens."""

    def __init__(self, engine: Engine, batch: int, context: int) -> None:
        self._engine, self._batch, self._context = engine, batch, context
        params = SequenceParams(context, 1, AcceptanceRule.REJECTION, SamplingParams(temperature=0.0))
        for number in range(batch):
            self._fed([VerifyItem(number, 0, tuple(range(100, 100 + context)), params)], 1)

    def step(self, q: int) -> float:
        """Milliseconds of one pass over q new tokens a sequence, at the same place each time."""
        items = [VerifyItem(number, self._context, (500,), None) for number in range(self._batch)]
        return self._fed(items, q)

    def _fed(self, items: list[VerifyItem], q: int) -> float:
        begun = [self._engine.begin("bench", item, reserve=q - 1) for item in items]
        feeds = []
        for sequence in begun:
            if not isinstance(sequence, Sequence):
                raise SystemExit(sequence.reason)
            feeds.append(Feed(sequence, (*sequence.feed, *[500] * (q - 1)), num_logits=q))
        started = time.perf_counter()
        self._engine.forward(feeds)
        return 1e3 * (time.perf_counter() - started)


class Theirs:
    """`transformers` with its own cache."""

    def __init__(self, module: Any, batch: int, context: int) -> None:
        self._module, self._batch, self._context = module, batch, context
        self._cache = DynamicCache(config=module.config)
        with torch.inference_mode():
            module(torch.arange(100, 100 + context).expand(batch, -1), past_key_values=self._cache)

    @torch.inference_mode()
    def step(self, q: int) -> float:
        """See `Ours.step`."""
        token_ids = torch.full((self._batch, q), 500)
        started = time.perf_counter()
        self._module(token_ids, past_key_values=self._cache)
        taken = 1e3 * (time.perf_counter() - started)
        self._cache.crop(-q)
        return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=25)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ensure(DEMO)
    factory: Any = AutoModelForCausalLM
    stock = factory.from_pretrained(
        model_path(DEMO), dtype=getattr(torch, options.dtype), attn_implementation="eager"
    ).eval()
    model, _ = open_model(model_path(DEMO), dtype=options.dtype, self_check=False)
    rows = []
    for batch, q in SHAPES:
        blocks = batch * ((options.context + q) // BLOCK_SIZE + 2)
        ours = Ours(Engine(model, blocks, BLOCK_SIZE, "bench"), batch, options.context)
        theirs = Theirs(stock, batch, options.context)
        times = [(ours.step(q), theirs.step(q)) for _ in range(options.repeats)][5:]
        own, their = (statistics.median(column) for column in zip(*times, strict=True))
        rows.append(
            {"batch": batch, "q": q, "minedraft_ms": round(own, 2), "transformers_ms": round(their, 2),
             "times_faster": round(their / own, 3)}
        )  # fmt: skip
        print(json.dumps(rows[-1]), flush=True)
    fields = {
        "threads": 1,
        "context": options.context,
        "rows": rows,
    }
    record(f"passes-{options.dtype}", fields)


if __name__ == "__main__":
    main()
