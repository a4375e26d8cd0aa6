"""The free list of KV blocks. Torch-free."""

from __future__ import annotations

from collections.abc import Iterable

from minedraft.errors import InternalError, NoSpace


class BlockPool:
    """`num_blocks` blocks, numbered from 0. A block is either free or given out, never both, never twice."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        # The last one is given out first. Low ids come first, so that a fresh sequence lies in one piece.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._given = bytearray(num_blocks)

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    def allocate(self, count: int) -> list[int]:
        """Give out `count` blocks, all or none. Raises NoSpace."""
        if count > len(self._free):
            raise NoSpace(f"{count} KV blocks are needed and {len(self._free)} of {self.num_blocks} are free")
        if count <= 0:
            return []
        blocks = self._free[: -count - 1 : -1]
        del self._free[-count:]
        for block in blocks:
            self._given[block] = 1
        return blocks

    def release(self, blocks: Iterable[int]) -> None:
        """Take blocks back. Raises InternalError for a block that is not given out."""
        for block in reversed(list(blocks)):
            if not (0 <= block < self.num_blocks and self._given[block]):
                raise InternalError(f"KV block {block} was released while it was free")
            self._given[block] = 0
            self._free.append(block)
