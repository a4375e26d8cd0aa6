"""How many KV blocks a service should have. Torch-free."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from minedraft.errors import SetupError

MIB: Final = 1 << 20
GIB: Final = 1 << 30
DEFAULT_SEQUENCES: Final = 64
DEFAULT_SEQUENCE_LEN: Final = 2048
MEMORY_SHARE: Final = 4  # the default takes at most one part in this many of the memory
CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")
# The largest pass that memory is kept for: several times what the coordinator's defaults send (512 tokens of prompts
# and 16 sequences of 5 tokens). What exceeds it still runs as long as there is memory.
PASS_TOKENS: Final = 2048
PASS_ROWS: Final = 256


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Memory of a GPU at one moment, bytes."""

    total: int
    free: int  # what nobody holds, other processes included
    own: int = 0  # what this process holds: its weights, before there is a cache


def bytes_per_block(num_layers: int, kv_heads: int, head_dim: int, itemsize: int, block_size: int) -> int:
    """Bytes of K and V that one block takes over all layers."""
    return 2 * num_layers * kv_heads * head_dim * itemsize * block_size


def choose_num_blocks(
    *, block_bytes: int, block_size: int, max_len: int, memory_bytes: int, budget_mib: int = 0
) -> int:
    """Number of KV blocks.

    With a budget: what fits into `budget_mib`. Without one: room for 64 sequences of min(max_len, 2048) tokens, but at
    most a quarter of `memory_bytes`, the memory of the machine or of the accelerator. Raises SetupError when not even
    one block fits.
    """
    if budget_mib == 0:
        wanted = DEFAULT_SEQUENCES * -(-min(max_len, DEFAULT_SEQUENCE_LEN) // block_size)
        fitting = memory_bytes // MEMORY_SHARE // block_bytes if block_bytes else wanted
        blocks = min(wanted, fitting)
    elif block_bytes == 0:
        blocks = DEFAULT_SEQUENCES * -(-max_len // block_size)
    else:
        blocks = budget_mib * MIB // block_bytes
    if blocks < 1:
        raise SetupError(
            f"the KV cache has no room for one block of {block_size} tokens ({block_bytes / MIB:.1f} MiB): "
            "give a larger --kv-cache-mib or a smaller --block-size"
        )
    return blocks


def pass_bytes(*, hidden: int, inner: int, vocab_size: int, itemsize: int) -> int:
    """Memory that the largest pass takes beside weights and cache, bytes: an estimate from above.

    Of one layer at a time a token holds the residual and its sum, a normed copy, and either queries, keys, values and
    their attention or gate, up and their product: `inner` is the larger of these. A row of logits is sampled from in
    float64, sorted and summed.
    """
    layer = PASS_TOKENS * (3 * hidden + inner) * itemsize
    logits = PASS_ROWS * vocab_size * (itemsize + 3 * 8)
    return layer + logits


def choose_gpu_blocks(
    *, block_bytes: int, block_size: int, memory: DeviceMemory, fraction: float, reserve: int, budget_mib: int = 0
) -> int:
    """Number of KV blocks on a GPU whose weights are loaded.

    All that fits: weights and cache take at most `fraction` of the GPU's memory, less `reserve` bytes for passes, and
    never more than is free. With a budget: what fits into `budget_mib`. Raises SetupError with the numbers when there
    is no room for one block, or for the budget.
    """
    room = min(int(memory.total * fraction) - memory.own, memory.free) - reserve
    wanted = budget_mib * MIB or room
    blocks = max(wanted, 0) // block_bytes
    if blocks >= 1 and wanted <= max(memory.free - reserve, 0):
        return blocks
    one = f"a block of {block_size} tokens takes {block_bytes / MIB:.1f} MiB"
    asked = f"--kv-cache-mib {budget_mib} and {one}" if budget_mib else one
    raise SetupError(
        f"the KV cache does not fit on the GPU: {asked}; of {memory.total / GIB:.2f} GiB, {memory.own / GIB:.2f} hold "
        f"this model, {memory.free / GIB:.2f} are free and {reserve / GIB:.2f} are kept for passes, which leaves "
        f"{max(room, 0) / GIB:.2f} with --memory-fraction {fraction:g}: give a "
        f"{'smaller --kv-cache-mib' if budget_mib and blocks else 'larger --memory-fraction'}, end other processes on "
        "the GPU, or use a smaller model or --dtype"
    )


def out_of_memory(doing: str, asked: int | None, memory: DeviceMemory, advice: str) -> str:
    """One sentence for a failed allocation. `asked` is in bytes; None when it is not known."""
    wanted = "more" if asked is None else f"{asked / GIB:.2f} GiB more"
    return (
        f"out of memory while {doing}: {wanted} was asked for, and {memory.free / GIB:.2f} of "
        f"{memory.total / GIB:.2f} GiB are free: {advice}"
    )


def machine_memory_bytes() -> int:
    """Memory of this machine, or of this container where that is less (cgroup v2)."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = CGROUP_LIMIT.read_text().strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine
