"""The KV blocks: which are free, how many sequences own each, and what those hold that others may find. Torch-free."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from minedraft.errors import InternalError, NoSpace


class BlockPool:
    """`num_blocks` blocks, numbered from 0. A block has owners, or none and is free.

    A full block may be named by its content (`minedraft.kv.content`). From then on nobody writes to it, and whoever
    finds it by its name may own it too. When its last owner leaves it keeps its name and counts as free, until its room
    is needed: the one that was left longest ago goes first.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self.evictions = 0  # named blocks that were given to somebody else
        # The last one is given out first. Low ids come first, so that a fresh sequence lies in one piece.
        self._free = list(range(num_blocks - 1, -1, -1))
        self._owners = [0] * num_blocks
        self._names: dict[int, bytes] = {}
        self._named: dict[bytes, int] = {}  # the inverse
        self._left: OrderedDict[int, None] = OrderedDict()  # named, without owners; the first was left first

    @property
    def free_blocks(self) -> int:
        return len(self._free) + len(self._left)

    def allocate(self, count: int) -> list[int]:
        """Give out `count` blocks, all or none, each to one owner. Raises NoSpace."""
        if count > self.free_blocks:
            raise NoSpace(f"{count} KV blocks are needed and {self.free_blocks} of {self.num_blocks} are free")
        for _ in range(count - len(self._free)):
            self._evict()
        if count <= 0:
            return []
        blocks = self._free[: -count - 1 : -1]
        del self._free[-count:]
        for block in blocks:
            self._owners[block] = 1
        return blocks

    def release(self, blocks: Iterable[int]) -> None:
        """One owner less for each. Raises InternalError for a block without any."""
        for block in reversed(list(blocks)):  # the end of a text goes before its beginning
            if not (0 <= block < self.num_blocks and self._owners[block]):
                raise InternalError(f"KV block {block} was released while it was free")
            self._owners[block] -= 1
            if not self._owners[block]:
                if block in self._names:
                    self._left[block] = None
                else:
                    self._free.append(block)

    def owners(self, block: int) -> int:
        return self._owners[block]

    def name(self, block: int, name: bytes) -> None:
        """Let a full block, which has an owner, be found. Without effect when another block of that name is there."""
        if not self._owners[block]:
            raise InternalError(f"KV block {block} was named while it was free")
        if block not in self._names and name not in self._named:
            self._names[block] = name
            self._named[name] = block

    def is_read_only(self, block: int) -> bool:
        return block in self._names or self._owners[block] > 1

    def holds(self, name: bytes) -> bool:
        """Whether a block of that name is there."""
        return name in self._named

    def share(self, name: bytes) -> int | None:
        """The block of that name with one owner more, or None."""
        block = self._named.get(name)
        if block is not None:
            self._owners[block] += 1
            self._left.pop(block, None)
        return block

    def _evict(self) -> None:
        block, _ = self._left.popitem(last=False)
        del self._named[self._names.pop(block)]
        self._free.append(block)
        self.evictions += 1
