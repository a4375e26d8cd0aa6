"""Weights of 8 bits: close to the plain ones, for every shape a pass has, and chosen for draft models on a CPU only."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from minedraft.config import DrafterSettings, VerifierSettings
from minedraft.engine.build import Part, build_engine
from minedraft.engine.opening import open_model
from minedraft.errors import SetupError
from minedraft.model.int8 import Int8Linear, can_quantize, overflows
from minedraft.model.llama import LlamaModel
from tests.models import tiny_llama
from tests.unit.engine.helpers import engine, feed, item

pytestmark = pytest.mark.skipif(not can_quantize(torch.device("cpu")), reason="this CPU has no 8-bit operators")


@pytest.mark.parametrize("rows", [0, 1, 3, 8])
@pytest.mark.parametrize("bias", [False, True])
def test_close_to_the_plain_layer(rows: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 64, bias=bias)
    given = torch.randn(2, rows, 96)
    with torch.inference_mode():
        found, wanted = Int8Linear(linear, narrow=overflows())(given), linear(given)
    assert found.shape == wanted.shape
    assert float((found - wanted).norm()) <= 0.02 * float(wanted.norm())


def test_a_row_of_zeros() -> None:
    linear = nn.Linear(8, 2, bias=False)
    nn.init.zeros_(linear.weight)
    assert Int8Linear(linear, narrow=overflows())(torch.ones(1, 8)).tolist() == [[0.0, 0.0]]


def test_a_model_with_8_bits_is_close_to_the_plain_one(tmp_path: Path) -> None:
    folder = str(tiny_llama(tmp_path / "model", dtype="bfloat16", hidden=128))
    plain, _ = open_model(folder, dtype="float32")
    rounded, _ = open_model(folder, int8=True, kernels="torch")
    assert isinstance(rounded, LlamaModel)
    assert rounded.dtype is torch.float32
    prompt = list(range(70, 90))
    ours, theirs = (feed(engine(model), item(1, 0, prompt), (5, 6, 7)) for model in (rounded, plain))
    assert float((ours - theirs).norm()) < 0.1 * float(theirs.norm())
    assert not torch.equal(ours, theirs)


def test_who_gets_8_bits(tmp_path: Path) -> None:
    folder = str(tiny_llama(tmp_path / "model", dtype="bfloat16"))

    def dtype(part: Part, settings: DrafterSettings | VerifierSettings) -> str:
        return build_engine(settings, part).engine.info.dtype

    assert dtype(Part.DRAFT, DrafterSettings(model=folder, num_blocks=8, kernels="torch")) == "float32"
    assert dtype(Part.DRAFT, DrafterSettings(model=folder, num_blocks=8)) == "bfloat16"  # by the native kernels
    assert dtype(Part.DRAFT, DrafterSettings(model=folder, num_blocks=8, weights="plain")) == "bfloat16"
    assert dtype(Part.DRAFT, DrafterSettings(model=folder, num_blocks=8, dtype="float64")) == "float64"
    assert dtype(Part.TARGET, VerifierSettings(model=folder, num_blocks=8)) == "bfloat16"
    assert (
        dtype(Part.TARGET, VerifierSettings(model=folder, num_blocks=8, weights="int8", kernels="torch")) == "float32"
    )


def test_no_8_bits_without_the_operators(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(tiny_llama(tmp_path / "model"))
    monkeypatch.setattr("minedraft.engine.opening.can_quantize", lambda device: False)
    with pytest.raises(SetupError, match="--weights int8 is not available"):
        open_model(folder, int8=True, kernels="torch")
    built = build_engine(DrafterSettings(model=folder, num_blocks=8), Part.DRAFT)
    assert built.engine.info.dtype == "float64"
