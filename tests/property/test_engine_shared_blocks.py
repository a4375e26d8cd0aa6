"""Named and shared blocks as a state machine: nothing is lost, nothing named is given out, the oldest go first."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from minedraft.errors import InternalError, NoSpace
from minedraft.kv.pool import BlockPool

BLOCKS = 6
NAMES = st.sampled_from([b"a", b"b", b"c", b"d", b"e"])


class SharedBlocks(RuleBasedStateMachine):
    """A pool beside an account of who owns what, and of what was named."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(BLOCKS)
        self.owned: list[int] = []  # a block as often as it is owned
        self.named: dict[bytes, int] = {}
        self.left: list[bytes] = []  # named, without owners, in the order in which they were left

    @rule(count=st.integers(0, BLOCKS + 1))
    def allocate(self, count: int) -> None:
        unnamed = BLOCKS - len(set(self.owned)) - len(self.left)
        if count > unnamed + len(self.left):
            with pytest.raises(NoSpace):
                self.pool.allocate(count)
            return
        blocks = self.pool.allocate(count)
        for name in self.left[: max(0, count - unnamed)]:
            del self.named[name]
        del self.left[: max(0, count - unnamed)]
        assert len(set(blocks)) == count
        assert not set(blocks) & (set(self.owned) | set(self.named.values()))
        self.owned += blocks

    @rule(which=st.integers(0, 20), name=NAMES)
    def name(self, which: int, name: bytes) -> None:
        if not self.owned:
            with pytest.raises(InternalError):
                self.pool.name(0, name)
            return
        block = self.owned[which % len(self.owned)]
        self.pool.name(block, name)
        if name not in self.named and block not in self.named.values():
            self.named[name] = block

    @rule(name=NAMES)
    def share(self, name: bytes) -> None:
        block = self.pool.share(name)
        assert block == self.named.get(name)
        if block is not None:
            self.owned.append(block)
            if name in self.left:
                self.left.remove(name)

    @rule(which=st.integers(0, 20))
    def release(self, which: int) -> None:
        if not self.owned:
            return
        block = self.owned.pop(which % len(self.owned))
        self.pool.release([block])
        if block not in self.owned:
            self.left += [name for name, named in self.named.items() if named == block]

    @invariant()
    def the_account_is_right(self) -> None:
        owners = Counter(self.owned)
        assert [self.pool.owners(block) for block in range(BLOCKS)] == [owners[block] for block in range(BLOCKS)]
        assert self.pool.free_blocks == BLOCKS - len(owners)
        assert all(self.pool.holds(name) for name in self.named)
        for block in owners:
            assert self.pool.is_read_only(block) == (owners[block] > 1 or block in self.named.values())


SharedBlocks.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestSharedBlocks = SharedBlocks.TestCase
