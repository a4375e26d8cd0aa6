"""The counter-based random numbers, against SplitMix64 in plain Python and against what numbers should look like."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from minedraft.sampling.uniforms import Role, exponentials, seeds_of, uniforms

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15
SEED = st.integers(0, MASK)


def mix(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def output(seed: int, n: int) -> int:
    """The n-th output, from 0, of SplitMix64 started at seed."""
    return mix((seed + (n + 1) * GAMMA) & MASK)


def test_the_published_sequence() -> None:
    """Seed 1234567 of the reference implementation, as quoted by its many ports."""
    assert [output(1234567, n) for n in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]


@given(st.lists(st.tuples(SEED, st.integers(0, 2**31)), min_size=1, max_size=4), st.sampled_from(Role))
def test_uniforms_are_splitmix64(keys: list[tuple[int, int]], role: Role) -> None:
    seeds, positions = (list(column) for column in zip(*keys, strict=True))
    found = uniforms(seeds_of(seeds), torch.tensor(positions), role)
    wanted = [(output(output(seed, 0), position * 4 + role) >> 11) * 2.0**-53 for seed, position in keys]
    assert found.tolist() == wanted
    assert all(0 <= value < 1 for value in wanted)


@given(SEED, st.integers(0, 2**31))
def test_exponentials_are_splitmix64(seed: int, position: int) -> None:
    found = exponentials(seeds_of([seed]), torch.tensor([position]), 7)[0]
    key = output(output(seed, 0), position * 4 + Role.RACE)
    wanted = [-math.log(((output(key, token) >> 11) + 0.5) * 2.0**-53) for token in range(7)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert found.min() > 0


def test_they_look_independent_and_uniform() -> None:
    """Over seeds, positions and roles; the bound is one in a million."""
    seeds, positions = torch.meshgrid(torch.arange(100), torch.arange(100), indexing="ij")
    columns = [uniforms(seeds.flatten(), positions.flatten(), role).numpy() for role in Role]
    for numbers in columns:
        assert stats.kstest(numbers, "uniform").pvalue > 1e-6
        grid = numbers.reshape(100, 100)
        for first, second in ((grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1])):
            assert stats.pearsonr(first.flatten(), second.flatten()).pvalue > 1e-6
    for index, first in enumerate(columns):
        for second in columns[:index]:
            assert stats.pearsonr(first, second).pvalue > 1e-6
    clocks = exponentials(torch.arange(100), torch.zeros(100, dtype=torch.int64), 100).numpy()
    assert stats.kstest(clocks.flatten(), "expon").pvalue > 1e-6
