"""What speculation does for the demo target: acceptance, and speed against plain decoding, one request at a time.

    python -m benchmarks.pair [--draft demo|ngram|FOLDER] [--prompts benchmarks/prompts/trial.jsonl] [--dtype auto]
                              [--temperatures 0,0.8] [--tokens 128] [--seed N]

Every prompt goes through the chat template and is asked twice in turn, with K=4 and with K=0, in the real services with
one thread each. Writes benchmarks/results/pair-DRAFT-PROMPTS-DTYPE.json.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from benchmarks.record import record
from minedraft.cli.demo_model import DEMO
from minedraft.cli.models import ensure
from minedraft.cli.stack import Stack, StackOptions
from minedraft.client import Client
from minedraft.distill.prompts import read_prompts
from minedraft.distill.trial import measure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draft", default=DEMO)
    parser.add_argument("--prompts", type=Path, default=Path(__file__).parent / "prompts" / "trial.jsonl")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--temperatures", default="0,0.8")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--seed", type=int, help="seeds every request: the rule MATCH in place of rejection")
    options = parser.parse_args()
    ensure(DEMO)
    stack = StackOptions(
        target=DEMO, draft=options.draft, dtype=options.dtype, draft_tokens=4, threads_verifier=1, threads_drafter=1
    )
    prompts = read_prompts(options.prompts)
    with Stack(stack) as running, Client(running.coordinator) as client:
        measure(client, prompts[:2], 0.0, 16)  # warm
        trials = [
            asdict(measure(client, prompts, float(temperature), options.tokens, seed=options.seed))
            for temperature in options.temperatures.split(",")
        ]
    fields = {
        "draft": options.draft,
        "dtype": options.dtype,
        "draft_tokens": 4,
        "tokens_a_prompt": options.tokens,
        "trials": trials,
    }
    seeded = "" if options.seed is None else "-seeded"
    name = f"pair-{Path(options.draft).name}-{options.prompts.stem}-{options.dtype}{seeded}"
    print(json.dumps(record(name, fields), indent=1))


if __name__ == "__main__":
    main()
