"""Reconcile, case by case."""

from __future__ import annotations

import pytest

from minedraft.engine.sequence import Reconciled, reconcile

CASES = {
    "nothing cached": ([], 0, [1, 2, 3], Reconciled(0, (1, 2, 3))),
    "all but the last cached": ([1, 2], 0, [1, 2, 3], Reconciled(2, (3,))),
    "everything cached: the last is fed again": ([1, 2, 3], 0, [1, 2, 3], Reconciled(2, (3,))),
    "more cached than committed": ([1, 2, 3, 4, 5], 0, [1, 2, 3], Reconciled(2, (3,))),
    "all drafts accepted, bonus token": ([1, 2, 3, 4], 2, [3, 4, 5], Reconciled(4, (5,))),
    "first draft rejected": ([1, 2, 8, 9], 2, [3], Reconciled(2, (3,))),
    "second draft rejected": ([1, 2, 3, 9], 2, [3, 4], Reconciled(3, (4,))),
    "disagreement in the middle of the tail": ([1, 2, 3, 4, 9, 6], 1, [2, 3, 4, 5, 6], Reconciled(4, (5, 6))),
    "tail starts right at the end": ([1, 2], 2, [3], Reconciled(2, (3,))),
    "a gap": ([1, 2], 3, [4], None),
    "a gap in nothing": ([], 1, [2], None),
    "a fresh statement that disagrees at once": ([7, 8, 9], 0, [1, 2], Reconciled(0, (1, 2))),
    "one token": ([5], 0, [5], Reconciled(0, (5,))),
}


@pytest.mark.parametrize(("cached", "base_len", "tail", "expected"), CASES.values(), ids=CASES)
def test_reconcile(cached: list[int], base_len: int, tail: list[int], expected: Reconciled | None) -> None:
    assert reconcile(cached, base_len, tuple(tail)) == expected


def test_reconcile_leaves_its_input_alone() -> None:
    cached = [1, 2, 3]
    reconcile(cached, 0, (1, 9))
    assert cached == [1, 2, 3]
