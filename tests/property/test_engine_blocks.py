"""Block pool and tables as a state machine: nothing is lost, nothing is owned twice."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from minedraft.errors import InternalError, NoSpace
from minedraft.kv.pool import BlockPool
from minedraft.kv.table import BlockTable

BLOCKS, BLOCK_SIZE = 12, 4
TABLES = st.integers(0, 3)


class Blocks(RuleBasedStateMachine):
    """Four tables over one pool, beside what the slots of each were said to be."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS)
        self.tables = [BlockTable(BLOCK_SIZE) for _ in range(4)]
        self.slots: list[list[int]] = [[] for _ in range(4)]

    @rule(number=TABLES, length=st.integers(0, BLOCKS * BLOCK_SIZE + 9))
    def grow(self, number: int, length: int) -> None:
        table, before = self.tables[number], list(self.tables[number].blocks)
        needed = -(-length // BLOCK_SIZE) - len(before)
        if needed > self.pool.free_blocks:
            with pytest.raises(NoSpace):
                table.grow(self.pool, length)
            assert table.blocks == before
        else:
            table.grow(self.pool, length)
            assert table.blocks[: len(before)] == before
            assert len(table.blocks) == len(before) + max(0, needed)
        self.slots[number] = [block * BLOCK_SIZE + at for block in table.blocks for at in range(BLOCK_SIZE)]

    @rule(number=TABLES, length=st.integers(0, BLOCKS * BLOCK_SIZE))
    def truncate(self, number: int, length: int) -> None:
        table, before = self.tables[number], list(self.tables[number].blocks)
        table.truncate(self.pool, length)
        assert table.blocks == before[: -(-length // BLOCK_SIZE)]
        self.slots[number] = self.slots[number][: len(table.blocks) * BLOCK_SIZE]

    @rule(number=TABLES)
    def release_twice(self, number: int) -> None:
        blocks = list(self.tables[number].blocks)
        self.tables[number].truncate(self.pool, 0)
        self.slots[number] = []
        for block in blocks:
            with pytest.raises(InternalError):
                self.pool.release([block])

    @invariant()
    def every_block_has_one_owner(self) -> None:
        owned = [block for table in self.tables for block in table.blocks]
        assert len(owned) == len(set(owned))
        assert len(owned) + self.pool.free_blocks == BLOCKS
        assert all(0 <= block < BLOCKS for block in owned)

    @invariant()
    def slots_follow_the_blocks(self) -> None:
        for table, slots in zip(self.tables, self.slots, strict=True):
            assert table.slots(0, table.capacity).tolist() == slots


Blocks.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestBlocks = Blocks.TestCase
