"""From how many tokens on torch computes a pass faster than the native kernels. Tried at start-up, where it may be so.

CPUs with matrix instructions multiply many rows faster by oneDNN, which uses them; the native kernels do not, and are
faster for few rows anywhere. The trial is the model's first layer, attention included, which takes milliseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import numpy as np

from minedraft.kv.store import KVStore
from minedraft.model.llama import LlamaModel
from minedraft.model.native import NativeLlama
from minedraft.model.ragged import RaggedBatch, Segment, assemble
from minedraft.native.binding import Kernels, Kind

SIZES: Final = (8, 16, 32, 64, 128)  # tokens of a pass
CLEARLY: Final = 0.85  # of the native kernels' time: a second copy of the weights must be worth it
REPEATS: Final = 4  # the shortest counts

Work = Callable[[int], object]  # a pass of so many tokens
Seconds = Callable[[int], float]  # that one takes


def native_limit(native: Seconds, by_torch: Seconds, sizes: Sequence[int] = SIZES) -> int:
    """The largest number of tokens that the native kernels are to compute, 0 for any number.

    It is the size before the first that torch clearly wins, and half of the smallest if it wins them all.
    """
    before = max(1, sizes[0] // 2)
    for size in sizes:
        if by_torch(size) < CLEARLY * native(size):
            return before
        before = size
    return 0


def timed(work: Work) -> Seconds:
    """The shortest of a few tries."""

    def seconds(size: int) -> float:
        taken = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            work(size)
            taken.append(time.perf_counter() - started)
        return min(taken)

    return seconds


def native_layer(model: LlamaModel, kernels: Kernels, kind: Kind, threads: int) -> Work:
    """The model's first layer by the native kernels, over that many tokens, of one sequence if it may be so long."""
    weights = model.weights()
    head, _ = weights.head
    small = replace(weights, layers=weights.layers[:1], head=(head[: kind.block], None))
    runner, store = NativeLlama(small, kernels, kind, threads=threads), _store_for(model)
    return lambda tokens: runner.forward(_batch_of(tokens, model.max_len), store)


def torch_layer(model: LlamaModel) -> Work:
    """The same by torch."""
    store = _store_for(model)
    return lambda tokens: model.first_layer(_batch_of(tokens, model.max_len), store)


def _batch_of(tokens: int, longest: int) -> RaggedBatch:
    slots = np.arange(tokens)
    parts = [slots[first : first + longest] for first in range(0, tokens, longest)]
    return assemble([Segment([0] * len(part), 0, part, 1) for part in parts])


def _store_for(model: LlamaModel) -> KVStore:
    return KVStore(
        1, model.kv_heads, model.head_dim, num_blocks=1, block_size=max(SIZES), dtype=model.dtype, device=model.device
    )
