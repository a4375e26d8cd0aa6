"""Packed linear layers against plain ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minedraft.errors import SetupError
from minedraft.model import packed, selfcheck
from minedraft.model.packed import PackedLinear, can_pack, pack_linears
from tests.models import tiny_model
from tests.unit.engine.helpers import engine, feed, full_logits, item

CPU = torch.device("cpu")
DTYPES = [dtype for dtype in packed.DTYPES if can_pack(dtype, CPU)]


def linear(dtype: torch.dtype, *, bias: bool) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(24, 40, bias=bias).to(dtype).requires_grad_(False)


@pytest.mark.parametrize("shape", [(1, 24), (5, 24), (1, 7, 24), (2, 3, 24), (300, 24)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_same_result(dtype: torch.dtype, bias: bool, shape: tuple[int, ...]) -> None:
    plain = linear(dtype, bias=bias)
    rows = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        output, expected = PackedLinear(plain)(rows), plain(rows)
    assert output.dtype == dtype
    tolerance = 1e-5 if dtype is torch.float32 else 2e-2
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_no_rows(dtype: torch.dtype) -> None:
    output = PackedLinear(linear(dtype, bias=True))(torch.empty(1, 0, 24, dtype=dtype))
    assert output.shape == (1, 0, 40)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_whole_model(dtype: torch.dtype) -> None:
    model = tiny_model(dtype=str(dtype).removeprefix("torch."))
    token_ids = list(range(20, 50))
    expected = full_logits(model, token_ids)
    assert pack_linears(model.module) == 2 * 7 + 1
    assert pack_linears(model.module) == 0
    logits = feed(engine(model), item(1, 0, token_ids[:-2]), token_ids[-2:])
    assert selfcheck.relative_difference(logits, expected[-3:]) < selfcheck.TOLERANCES[dtype]
    assert selfcheck.check(model) < selfcheck.TOLERANCES[dtype]


def test_only_where_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not can_pack(torch.float64, CPU)
    assert not can_pack(torch.float16, CPU)
    assert not can_pack(torch.float32, torch.device("cuda"))
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not can_pack(torch.float32, CPU)


@pytest.mark.skipif(not DTYPES, reason="this build of PyTorch has no oneDNN")
def test_a_wrong_result_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    right: Any = PackedLinear.forward

    def wrong(self: PackedLinear, rows: Tensor) -> Tensor:
        output: Tensor = right(self, rows)
        return output.roll(1, dims=-1)

    monkeypatch.setattr(PackedLinear, "forward", wrong)
    model = tiny_model(dtype=str(DTYPES[0]).removeprefix("torch."))
    with pytest.raises(SetupError, match=r"packed weights of lm_head|packed weights of model.layers.0"):
        pack_linears(model.module)
