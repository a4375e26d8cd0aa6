"""Blocks: who owns them, and where tokens lie."""

from __future__ import annotations

import pytest

from minedraft.errors import InternalError, NoSpace
from minedraft.kv.pool import BlockPool
from minedraft.kv.table import BlockTable


def test_fresh_pool_gives_ascending_blocks() -> None:
    pool = BlockPool(5)
    assert pool.allocate(2) == [0, 1]
    assert pool.allocate(3) == [2, 3, 4]
    assert pool.free_blocks == 0


def test_allocation_is_all_or_nothing() -> None:
    pool = BlockPool(3)
    pool.allocate(2)
    with pytest.raises(NoSpace, match="2 KV blocks are needed and 1 of 3 are free"):
        pool.allocate(2)
    assert pool.free_blocks == 1


def test_released_blocks_come_again_in_the_same_order() -> None:
    pool = BlockPool(4)
    blocks = pool.allocate(3)
    pool.release(blocks)
    assert pool.allocate(3) == blocks


@pytest.mark.parametrize("block", [-1, 0, 4])
def test_release_of_a_free_block_is_a_fault(block: int) -> None:
    pool = BlockPool(4)
    with pytest.raises(InternalError, match=f"KV block {block} "):
        pool.release([block])
    assert pool.free_blocks == 4


def test_allocate_nothing() -> None:
    pool = BlockPool(0)
    assert pool.allocate(0) == []


def test_slots_follow_the_blocks() -> None:
    pool, table = BlockPool(8), BlockTable(4)
    table.grow(pool, 3)
    other = pool.allocate(1)
    table.grow(pool, 9)
    assert table.blocks == [0, 2, 3]
    assert other == [1]
    assert table.slots(0, 9).tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 12]
    assert table.slots(3, 5).tolist() == [3, 8]
    assert table.capacity == 12


def test_grow_past_the_pool_changes_nothing() -> None:
    pool, table = BlockPool(2), BlockTable(4)
    table.grow(pool, 4)
    with pytest.raises(NoSpace):
        table.grow(pool, 9)
    assert table.blocks == [0]
    assert pool.free_blocks == 1


def test_truncate_gives_back_whole_blocks_only() -> None:
    pool, table = BlockPool(4), BlockTable(4)
    table.grow(pool, 16)
    table.truncate(pool, 5)
    assert table.blocks == [0, 1]
    table.truncate(pool, 8)
    assert table.blocks == [0, 1]
    table.truncate(pool, 0)
    assert table.blocks == []
    assert pool.free_blocks == 4


def test_slots_are_right_after_truncate_and_grow() -> None:
    pool, table = BlockPool(4), BlockTable(2)
    table.grow(pool, 6)
    table.truncate(pool, 2)
    stranger = pool.allocate(1)
    table.grow(pool, 6)
    assert stranger == [1]
    assert table.slots(0, 6).tolist() == [0, 1, 4, 5, 6, 7]
