"""RMS norm against its formula, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from minedraft.model.rms_norm import FEW_ROWS, RmsNorm

EPS = 1e-5


def by_formula(x: Tensor, weight: Tensor) -> Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight.double()


@given(st.integers(1, FEW_ROWS + 3), st.integers(1, 96), st.floats(-3, 3), st.floats(-4, 4), st.integers(0, 1 << 30))
@pytest.mark.parametrize(("dtype", "off"), [(torch.float32, 2e-6), (torch.bfloat16, 1.3e-2), (torch.float64, 1e-12)])
def test_is_what_the_formula_says(
    dtype: torch.dtype, off: float, rows: int, size: int, mean: float, magnitude: float, seed: int
) -> None:
    """For rows that are far from a mean of 0 too, and for ones that eps decides."""
    drawn = torch.Generator().manual_seed(seed)
    x = ((torch.randn(rows, size, generator=drawn) + mean) * 10**magnitude).to(dtype)
    weight = (torch.rand(size, generator=drawn) + 0.5).to(dtype)
    found, expected = RmsNorm(weight, EPS)(x), by_formula(x, weight)
    assert found.dtype == dtype
    assert found.shape == x.shape
    assert float((found.double() - expected).abs().max()) <= off * max(float(expected.abs().max()), 1e-3)


def test_no_rows() -> None:
    norm = RmsNorm(torch.ones(8, dtype=torch.bfloat16), EPS)
    assert norm(torch.empty(0, 8, dtype=torch.bfloat16)).shape == (0, 8)


def test_zeros_stay_zeros() -> None:
    norm = RmsNorm(torch.ones(8, dtype=torch.bfloat16), EPS)
    assert not norm(torch.zeros(2, 8, dtype=torch.bfloat16)).any()
