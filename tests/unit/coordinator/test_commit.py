"""Where a request's tokens end."""

from __future__ import annotations

import pytest

from coordinator.commit import Cut, Ending, cut
from minedraft.generation import FinishReason
from minedraft.types import SamplingParams

EOS, STOP, LENGTH = FinishReason


@pytest.mark.parametrize(
    ("emitted", "room", "wanted"),
    [
        ((5, 6, 7), 9, Cut((5, 6, 7), None)),
        ((5, 2, 7), 9, Cut((5, 2), EOS, hides_last=True)),
        ((5, 9, 2), 9, Cut((5, 9), STOP, hides_last=True)),
        ((5, 6, 7), 3, Cut((5, 6, 7), LENGTH)),
        ((5, 6, 7), 2, Cut((5, 6), LENGTH)),
        ((5, 6, 2), 3, Cut((5, 6, 2), EOS, hides_last=True)),
        ((5, 6, 2), 2, Cut((5, 6), LENGTH)),
        ((2,), 1, Cut((2,), EOS, hides_last=True)),
    ],
)
def test_cut(emitted: tuple[int, ...], room: int, wanted: Cut) -> None:
    assert cut(emitted, Ending(eos_token_ids=(2, 3), stop_token_ids=(9,), room=room)) == wanted


def test_eos_may_be_ignored_and_still_be_a_stop_token() -> None:
    assert cut((2, 5), Ending.of(SamplingParams(ignore_eos=True), (2,), 9)) == Cut((2, 5), None)
    both = SamplingParams(ignore_eos=True, stop_token_ids=(2,))
    assert cut((2, 5), Ending.of(both, (2,), 9)) == Cut((2,), STOP, hides_last=True)
    assert cut((2, 5), Ending.of(SamplingParams(), (2,), 9)) == Cut((2,), EOS, hides_last=True)
