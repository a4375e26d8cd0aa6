"""What one draft token costs beside one pass of the target: one thread, batch 1, one token a pass.

    python -m benchmarks.draft_cost [--dtype bfloat16] [--draft int8|plain] [--context 128] [--passes 200]

Both through the engine that serves them, paged cache and all, in turns: a pass of the target, then a proposal of four
drafts, of which the mean counts. Medians over all turns.
Writes benchmarks/results/draft_cost-DTYPE-DRAFT.json.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import torch

from benchmarks.record import record
from drafter_service.proposers.model import ModelProposer
from minedraft.channel.step import StepChannels
from minedraft.cli.demo_model import DEMO, draft_path, model_path
from minedraft.cli.models import ensure
from minedraft.engine.opening import open_model
from minedraft.engine.runner import Engine, Feed, Sequence
from minedraft.sampling.draft import DraftLawKind
from minedraft.types import AcceptanceRule, DraftItem, SamplingParams, SequenceParams

BLOCK_SIZE = 16
K = 4


def opened(path: str, dtype: str, context: int, *, int8: bool) -> Engine:
    """An engine with one sequence of `context` tokens."""
    model, _ = open_model(path, dtype=dtype, self_check=False, int8=int8)
    engine = Engine(model, context // BLOCK_SIZE + 8, BLOCK_SIZE, "bench")
    params = SequenceParams(context, 1, AcceptanceRule.REJECTION, SamplingParams(temperature=0.0))
    feed(engine, DraftItem(1, 0, tuple(range(100, 100 + context)), params, 0))
    return engine


def feed(engine: Engine, item: DraftItem) -> float:
    """Milliseconds of one pass over the item's tail."""
    begun = engine.begin("bench", item, reserve=0)
    if not isinstance(begun, Sequence):
        raise SystemExit(begun.reason)
    started = time.perf_counter()
    engine.forward([Feed(begun, begun.feed, num_logits=1)])
    return 1e3 * (time.perf_counter() - started)


def propose(proposer: ModelProposer, item: DraftItem) -> float:
    """Milliseconds a draft of one proposal, reconciling and drawing included."""
    started = time.perf_counter()
    proposer.step("bench", [item], StepChannels())
    return 1e3 * (time.perf_counter() - started) / item.max_draft_tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--draft", choices=("int8", "plain"), default="int8", help="weights of the draft model")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--passes", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    ensure(DEMO)
    target = opened(model_path(DEMO), options.dtype, options.context, int8=False)
    drafter = opened(draft_path(DEMO, DEMO), options.dtype, options.context, int8=options.draft == "int8")
    proposer = ModelProposer(drafter, DraftLawKind.TOP_M, 32)
    again = DraftItem(1, options.context, (500,), None, K)  # the same place each time, as after a rejection
    times = [(feed(target, again), propose(proposer, again)) for _ in range(options.passes)]
    pass_ms, draft_ms = (statistics.median(column) for column in zip(*times[20:], strict=True))
    fields = {
        "threads": 1,
        "context": options.context,
        "target_pass_ms": round(pass_ms, 3),
        "draft_token_ms": round(draft_ms, 3),
        "draft_share_of_pass": round(draft_ms / pass_ms, 4),
        "bar": 0.125,
    }
    print(json.dumps(record(f"draft_cost-{options.dtype}-{options.draft}", fields), indent=1))


if __name__ == "__main__":
    main()
