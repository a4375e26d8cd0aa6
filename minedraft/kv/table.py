"""The blocks of one sequence, in the order of its tokens. Torch-free."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from minedraft.kv.pool import BlockPool

SlotArray = NDArray[np.int64]


class BlockTable:
    """Maps a position in the sequence to a slot of the store: slot = block * block_size + position % block_size."""

    def __init__(self, block_size: int) -> None:
        self.block_size = block_size
        self.blocks: list[int] = []
        # All slots of all blocks, kept so that a step only slices. Longer than the blocks fill: see `_extend`.
        self._slots: SlotArray = np.empty(0, dtype=np.int64)

    @property
    def capacity(self) -> int:
        """Tokens that the blocks hold."""
        return len(self.blocks) * self.block_size

    def grow(self, pool: BlockPool, length: int) -> None:
        """Own enough blocks for `length` tokens. Raises NoSpace and changes nothing when there are too few."""
        missing = -(-length // self.block_size) - len(self.blocks)
        if missing > 0:
            self._extend(pool.allocate(missing))

    def append(self, block: int) -> None:
        """Own one block more, which is shared with others and full."""
        self._extend([block])

    def truncate(self, pool: BlockPool, length: int) -> None:
        """Give back the blocks past the first `length` tokens."""
        keep = -(-length // self.block_size)
        if keep < len(self.blocks):
            pool.release(self.blocks[keep:])
            del self.blocks[keep:]

    def slots(self, start: int, stop: int) -> SlotArray:
        """Slots of the positions [start, stop), int64. A view: do not write to it, do not keep it past a `grow`."""
        return self._slots[start:stop]

    def _extend(self, blocks: list[int]) -> None:
        used = self.capacity
        new = (np.asarray(blocks, dtype=np.int64)[:, None] * self.block_size + np.arange(self.block_size)).ravel()
        if used + new.size > self._slots.size:
            room = np.empty(max(2 * self._slots.size, used + new.size), dtype=np.int64)
            room[:used] = self._slots[:used]
            self._slots = room
        self._slots[used : used + new.size] = new
        self.blocks.extend(blocks)
