"""Random numbers without a state: a function of the request's seed, the position in the sequence and the role.

Output therefore does not depend on lanes, batch mates, retries or the replica that computes it. The function is
SplitMix64 (Steele, Lea & Flood, OOPSLA 2014, https://doi.org/10.1145/2660193.2660195) used as a counter: the n-th
output of the stream that starts at s is `mix(s + (n + 1) * GAMMA)`. Seeds are uint64 carried as int64 of the same bits,
and int64 arithmetic wraps.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

import torch
from torch import Tensor

GAMMA: Final = 0x9E3779B97F4A7C15 - (1 << 64)  # constants above 2**63 as the int64 of the same bits
FIRST: Final = 0xBF58476D1CE4E5B9 - (1 << 64)
SECOND: Final = 0x94D049BB133111EB - (1 << 64)


class Role(IntEnum):
    """What a number is for. Numbers of different roles are independent."""

    DRAFT = 0
    """The drafter's draw at a position, under rule REJECTION."""
    ACCEPT = 1
    """Whether the draft at a position is accepted."""
    NEXT = 2
    """The recovered or bonus token at a position."""
    RACE = 3
    """The target's own pick at a position, under rule MATCH; the drafter runs the same race."""


def seeds_of(seeds: Sequence[int], device: torch.device | None = None) -> Tensor:
    """uint64 seeds as int64 of the same bits. [n]"""
    return torch.tensor([seed - (1 << 64) if seed >= 1 << 63 else seed for seed in seeds], device=device)


def uniforms(seeds: Tensor, positions: Tensor, role: Role) -> Tensor:
    """One number for each (seed, position), uniform on the multiples of 2**-53 in [0, 1). int64 [n] -> float64 [n]"""
    return _top_53(_keys(seeds, positions, role)).double() * 2.0**-53


def exponentials(seeds: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """An exponential clock for each token of each (seed, position): rate 1, above 0. int64 [n] -> float64 [n, V]"""
    keys = _keys(seeds, positions, Role.RACE)
    tokens = torch.arange(1, vocab_size + 1, device=seeds.device)
    bits = _mix(keys[:, None] + tokens * GAMMA)
    return _top_53(bits).double().add_(0.5).mul_(2.0**-53).log_().neg_()


def _keys(seeds: Tensor, positions: Tensor, role: Role) -> Tensor:
    return _mix(_mix(seeds + GAMMA) + (positions * len(Role) + (int(role) + 1)) * GAMMA)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * FIRST
    z = (z ^ _shift(z, 27)) * SECOND
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical shift to the right."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _top_53(z: Tensor) -> Tensor:
    return _shift(z, 11)
