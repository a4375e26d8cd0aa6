"""How many KV blocks a service should have. Torch-free."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from minedraft.errors import SetupError

MIB: Final = 1 << 20
DEFAULT_SEQUENCES: Final = 64
DEFAULT_SEQUENCE_LEN: Final = 2048
MEMORY_SHARE: Final = 4  # the default takes at most one part in this many of the memory
CGROUP_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")


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


def machine_memory_bytes() -> int:
    """Memory of this machine, or of this container where that is less (cgroup v2)."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = CGROUP_LIMIT.read_text().strip()
    except OSError:
        return machine
    return min(machine, int(limit)) if limit.isdigit() else machine
