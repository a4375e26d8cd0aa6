"""Reconcile for any cached tokens and any statement of the committed ones."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from minedraft.engine.sequence import reconcile

TOKENS = st.lists(st.integers(0, 2), max_size=12)  # few tokens, so that much agrees


@given(cached=TOKENS, base_len=st.integers(0, 14), tail=st.lists(st.integers(0, 2), min_size=1, max_size=12))
def test_reconcile(cached: list[int], base_len: int, tail: list[int]) -> None:
    plan = reconcile(cached, base_len, tail)
    if len(cached) < base_len:
        assert plan is None
        return
    assert plan is not None
    committed = cached[:base_len] + tail
    # the kept tokens and the fed ones are the committed ones, and at least one is fed
    assert cached[: plan.keep] + list(plan.feed) == committed
    assert plan.feed
    assert plan.keep >= base_len
    # no more could have been kept
    could_keep_more = plan.keep < min(len(cached), len(committed) - 1)
    assert not could_keep_more or cached[plan.keep] != committed[plan.keep]


@given(committed=st.lists(st.integers(0, 2), min_size=2, max_size=12), data=st.data())
def test_how_a_statement_is_cut_does_not_matter(committed: list[int], data: st.DataObject) -> None:
    """Any base_len that is truly cached leads to the same plan."""
    agreeing = data.draw(st.integers(0, len(committed) - 1))
    cached = committed[:agreeing] + data.draw(TOKENS)
    base_len = data.draw(st.integers(0, agreeing))
    assert reconcile(cached, base_len, committed[base_len:]) == reconcile(cached, 0, committed)
