"""llama.cpp: plain decoding of the target in bfloat16, and in the 4 bits (Q4_1) that the demo's weights come from.

Its interpreter has the package `llama-cpp-python` (README.md). All sequences in flight are decoded in one batch and the
next prompt takes the place of one that ends, as its server does it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import llama_cpp
import numpy as np

CONTEXT, BATCH = 1024, 512
WAYS = {"plain": "target-bf16.gguf", "plain, Q4_1": "target-q4_1.gguf"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    silent = llama_cpp.llama_log_callback(lambda *_: None)  # must outlive its use
    llama_cpp.llama_log_set(silent, ctypes.c_void_p(0))
    given = json.loads((options.inputs / "inputs.json").read_text(encoding="utf-8"))
    llama_cpp.llama_backend_init()
    print("{}", flush=True)
    for line in sys.stdin:
        concurrency, part = map(int, line.split())
        prompts, found = given["parts"][part], {}
        for way, file in WAYS.items():
            decoder = Decoder(options.inputs / file, concurrency, options.threads, given["end"], given["tokens"])
            decoder.decode(prompts[:concurrency])  # warm
            started = time.perf_counter()
            tokens = decoder.decode(prompts)
            seconds = time.perf_counter() - started
            found[way] = {"tokens_per_second": tokens / seconds, "output_tokens": tokens, "seconds": seconds}
            decoder.close()
        print(json.dumps(found), flush=True)


@dataclass
class Slot:
    """A sequence at work: what is to be fed next, and where."""

    fed: list[int]
    position: int = 0
    made: list[int] = field(default_factory=list)


class Decoder:
    """Greedy decoding of at most `slots` sequences in one batch."""

    def __init__(self, file: Path, slots: int, threads: int, end: int, tokens: int) -> None:
        self.slots, self.end, self.tokens = slots, end, tokens
        self.model = llama_cpp.llama_model_load_from_file(str(file).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp cannot load {file}")
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = CONTEXT * slots, BATCH, BATCH
        settings.n_seq_max, settings.n_threads, settings.n_threads_batch = slots, threads, threads
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.batch = llama_cpp.llama_batch_init(BATCH, 0, 1)

    def close(self) -> None:
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)

    def decode(self, prompts: list[list[int]]) -> int:
        """Answer all prompts; how many tokens the answers have, end tokens included."""
        waiting = list(prompts)
        running: dict[int, Slot] = {}
        total = 0
        while waiting or running:
            for place in range(self.slots):
                if place not in running and waiting:
                    running[place] = Slot(waiting.pop(0))
            logit_rows = self._feed(running)
            for place, row in logit_rows.items():
                slot = running[place]
                token = int(self._logits(row).argmax())
                slot.made.append(token)
                slot.fed = [token]
                if token == self.end or len(slot.made) == self.tokens:
                    total += len(slot.made)
                    del running[place]
                    llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self.context), place, -1, -1)
        return total

    def _feed(self, running: dict[int, Slot]) -> dict[int, int]:
        """One pass over what every slot is to be fed; the batch's row of each slot's last token."""
        batch: Any = self.batch
        rows: dict[int, int] = {}
        at = 0
        for place, slot in running.items():
            if at + len(slot.fed) > BATCH:  # it waits for the next pass
                continue
            for token in slot.fed:
                batch.token[at], batch.pos[at] = token, slot.position
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, place
                batch.logits[at] = 0
                slot.position += 1
                at += 1
            batch.logits[at - 1] = 1
            rows[place] = at - 1
        batch.n_tokens = at
        if llama_cpp.llama_decode(self.context, batch):
            raise SystemExit("llama_decode failed")
        return rows

    def _logits(self, row: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        found = llama_cpp.llama_get_logits_ith(self.context, row)
        return np.ctypeslib.as_array(found, shape=(self.vocab_size,))


if __name__ == "__main__":
    main()
