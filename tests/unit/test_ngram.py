"""Prompt lookup against a brute-force reference, and its share of the item protocol."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drafter_service.proposers.ngram import NgramProposer
from minedraft.channel.step import StepChannels
from minedraft.types import AcceptanceRule, DraftItem, ItemStatus, SamplingParams, SequenceParams

PARAMS = SequenceParams(1, 0, AcceptanceRule.REJECTION, SamplingParams())


def proposer() -> NgramProposer:
    return NgramProposer("test", shortest=1, longest=3)


def item(base: int, tail: list[int], drafts: int) -> DraftItem:
    return DraftItem(7, base, tuple(tail), PARAMS if base == 0 else None, drafts)


def looked_up(tokens: list[int], count: int) -> tuple[int, ...]:
    """The last earlier occurrence of the longest final n-gram of 3, 2, 1 tokens, continued over its own end."""
    for size in (3, 2, 1):
        for end in range(len(tokens) - 1, size - 1, -1):
            if size < len(tokens) and tokens[end - size : end] == tokens[-size:]:
                grown = list(tokens)
                for place in range(count):
                    grown.append(grown[end + place])
                return tuple(grown[len(tokens) :])
    return ()


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.data())
def test_agrees_with_brute_force_however_the_tokens_arrive(tokens: list[int], data: st.DataObject) -> None:
    one = proposer()
    done = 0
    while done < len(tokens):
        base = data.draw(st.integers(0, done))
        done = data.draw(st.integers(done + 1, len(tokens)))
        count = data.draw(st.integers(0, 6))
        (proposal,) = one.step("lease", [item(base, tokens[base:done], count)], StepChannels())
        assert proposal.status is ItemStatus.OK
        assert proposal.cached_len == done
        assert proposal.token_ids == (looked_up(tokens[:done], count) if count else ())


def test_a_tail_that_disagrees_replaces_what_was_cached() -> None:
    one = proposer()
    one.step("lease", [item(0, [1, 2, 3, 1, 2], 2)], StepChannels())
    (proposal,) = one.step("lease", [item(2, [9, 1, 2], 2)], StepChannels())
    assert proposal.token_ids == (9, 1)


def test_a_gap_names_what_is_cached_and_leases_do_not_share() -> None:
    one = proposer()
    one.step("lease", [item(0, [1, 2], 0)], StepChannels())
    assert one.step("lease", [item(3, [1], 2)], StepChannels())[0].status is ItemStatus.GAP
    assert one.step("lease", [item(3, [1], 2)], StepChannels())[0].cached_len == 2
    assert one.step("other", [item(1, [1], 2)], StepChannels())[0].cached_len == 0
    assert one.state().sequences == 1
    one.release("lease", [7, 8])
    assert one.state().sequences == 0
    one.step("lease", [item(0, [1], 0)], StepChannels())
    one.release_lease("lease")
    assert one.state().sequences == 0
