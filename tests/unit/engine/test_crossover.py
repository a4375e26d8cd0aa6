"""Which passes go to torch beside native kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from minedraft.engine import crossover, opening
from minedraft.engine.crossover import SIZES, native_layer, native_limit, torch_layer
from minedraft.engine.opening import open_model
from minedraft.model.llama import LlamaModel
from tests.models import tiny_llama
from tests.unit.engine.helpers import engine, feed, item
from tests.unit.engine.test_native import KERNELS, rounded, use


def never(size: int) -> float:
    return 1.0


@pytest.mark.parametrize(("torch_wins_from", "limit"), [(0, 4), (16, 8), (32, 16), (128, 64), (1000, 0)])
def test_the_size_before_the_first_that_torch_wins(torch_wins_from: int, limit: int) -> None:
    def by_torch(size: int) -> float:
        return 0.5 if size >= torch_wins_from else 2.0

    assert native_limit(never, by_torch) == limit


def test_torch_must_win_clearly() -> None:
    assert native_limit(never, lambda size: 0.9) == 0


@pytest.mark.parametrize("longest", [640, 50])
def test_a_layer_runs_at_every_size(longest: int) -> None:
    model = rounded(max_position_embeddings=longest)
    native, by_torch = native_layer(model, KERNELS, KERNELS.kinds[0], 1), torch_layer(model)
    for size in SIZES:
        native(size)
        by_torch(size)
    assert crossover.timed(native)(SIZES[0]) > 0


def test_short_passes_are_native_and_long_ones_are_not() -> None:
    model = rounded()
    made = use(model, KERNELS.kinds[0])
    model.use_native(made, 4)
    model.release()  # keeps what torch needs
    on = engine(model)
    assert feed(on, item(1, 0, range(10, 22))).dtype == torch.bfloat16
    logits = feed(on, item(1, 12, (5,)), (6, 7))
    assert logits.dtype == torch.float32
    model.use_native(made)
    expected = feed(engine(model), item(1, 0, [*range(10, 22), 5]), (6, 7))
    assert float((logits - expected).abs().max()) < 0.05 * float(expected.abs().max())


def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> LlamaModel:
    """A model opened on a CPU that is said to have bfloat16 instructions, where torch wins from 32 tokens on."""
    monkeypatch.setattr(opening, "can_pack", lambda dtype, device: True)
    monkeypatch.setattr(opening, "pack_linears", lambda linears: 9)

    def timed(work: crossover.Work) -> crossover.Seconds:
        is_native = work.__qualname__.startswith("native_layer")
        return lambda size: 1.0 if is_native else 24.0 / size

    monkeypatch.setattr(crossover, "timed", timed)
    model, _ = open_model(str(tiny_llama(tmp_path / "model", dtype="bfloat16", hidden=128)), **settings)
    assert isinstance(model, LlamaModel)
    return model


@pytest.mark.parametrize(
    ("settings", "most"), [({}, 16), ({"kernels": "native"}, 0), ({"int8": True}, 0), ({"kernels": "torch"}, 0)]
)
def test_who_shares(settings: dict[str, Any], most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(tmp_path, monkeypatch, **settings)._most_native == most
