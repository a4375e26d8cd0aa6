"""Blocks that sequences share because they begin alike: a common system prompt is computed once. Torch-free."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from typing import TypeVar

from minedraft.engine.sequence import Sequence
from minedraft.kv.content import NOTHING, names
from minedraft.kv.pool import BlockPool
from minedraft.types import DraftItem, VerifyItem

StepT = TypeVar("StepT", DraftItem, VerifyItem)


class Prefixes:
    """Finds and offers full blocks of committed tokens by their content. Used on the engine thread only."""

    def __init__(self, pool: BlockPool, block_size: int) -> None:
        self.looked_for = 0  # tokens of full blocks that were to be fed
        self.found = 0  # those of them that need not be
        self._pool = pool
        self._block_size = block_size

    def adopt(self, sequence: Sequence, feed: Seq[int], least: int) -> int:
        """Own the blocks that hold the beginning of `feed`, but for its last `least` tokens; the tokens they hold.

        Only whole blocks are shared, so nothing is found for a sequence that ends inside of a block.
        """
        size, found = self._block_size, 0
        wanted = feed[: len(feed) - least]
        if not self._is_even(sequence) or len(wanted) < size:
            return 0
        self.looked_for += len(wanted) // size * size
        for name in self._names(sequence, wanted):
            block = self._pool.share(name)
            if block is None:
                break
            sequence.table.append(block)
            sequence.names.append(name)
            found += size
        sequence.token_ids += feed[:found]
        self.found += found
        return found

    def offer(self, sequence: Sequence) -> None:
        """Let the full blocks of committed tokens be found, as far as they are cached by now."""
        size, before = self._block_size, len(sequence.names)
        ready = min(sequence.committed_len, sequence.cached_len) // size * size
        if ready == before * size:
            return
        for name in self._names(sequence, sequence.token_ids[before * size : ready]):
            self._pool.name(sequence.table.blocks[len(sequence.names)], name)
            sequence.names.append(name)

    def waves(self, items: Seq[tuple[StepT, Sequence | None]]) -> list[list[StepT]]:
        """Those that compute what nobody has, then those that begin like one of them. Given: items, their sequences."""
        computed: set[bytes] = set()
        first: list[StepT] = []
        second: list[StepT] = []
        for item, sequence in items:
            missing = {name for name in self._begins(item, sequence) if not self._pool.holds(name)}
            if missing & computed:
                second.append(item)
            else:
                computed |= missing
                first.append(item)
        return [wave for wave in (first, second) if wave]

    def _begins(self, item: StepT, sequence: Sequence | None) -> Iterator[bytes]:
        """The names of the full blocks of an item's tail, if it goes on where a block ends."""
        if len(item.tail_token_ids) < self._block_size:
            return iter(())
        if sequence is None:
            return names(NOTHING, item.tail_token_ids, self._block_size) if item.base_len == 0 else iter(())
        even = self._is_even(sequence) and sequence.cached_len == item.base_len
        return self._names(sequence, item.tail_token_ids) if even else iter(())

    def _is_even(self, sequence: Sequence) -> bool:
        """Whether it ends where a block does, and all of its blocks have names."""
        return len(sequence.names) * self._block_size == sequence.cached_len

    def _names(self, sequence: Sequence, token_ids: Seq[int]) -> Iterator[bytes]:
        before = sequence.names[-1] if sequence.names else NOTHING
        return names(before, token_ids, self._block_size)
