"""Attention on a real GPU: flash against sdpa by the doctor's checks and through the engine; graphs against eager."""

from __future__ import annotations

import pytest
import torch

from minedraft.cli.doctor.attention import (
    RAGGED_TOLERANCES,
    check_flash,
    check_sdpa,
    ragged_difference,
    random_model,
)
from minedraft.cli.doctor.finding import Result, Scope
from minedraft.engine.runner import Engine, new_store
from minedraft.model import selfcheck
from minedraft.model.attention import AttentionBackend
from minedraft.model.flash import PAGE, FlashBackend, FlashFunction
from minedraft.model.graphs import CudaGraphs, DecodeGraphs
from minedraft.model.llama import LlamaModel
from minedraft.model.sdpa import SdpaBackend
from tests.unit.engine.test_graphs import decode

BLOCKS = 12
MAX_LEN = 600
DTYPE = torch.bfloat16


def test_sdpa_equals_the_stock_model_on_a_gpu() -> None:
    (found,) = check_sdpa(Scope(device="cuda"))
    assert found.is_ok, found


def test_flash_equals_sdpa_in_a_model(flash: FlashFunction) -> None:
    (found,) = check_flash(Scope(device="cuda"))
    assert found.result is Result.OK, found


@pytest.mark.parametrize("dtype", RAGGED_TOLERANCES, ids=str)
def test_flash_equals_sdpa_on_ragged_batches(flash: FlashFunction, gpu: torch.device, dtype: torch.dtype) -> None:
    assert ragged_difference(flash, gpu, dtype) <= RAGGED_TOLERANCES[dtype]


def engine_of(gpu: torch.device, backend: AttentionBackend, graphed: bool = False) -> tuple[LlamaModel, Engine]:
    model = random_model(DTYPE, gpu, backend)
    store = new_store(model, BLOCKS, PAGE, spare_blocks=1)
    if graphed:
        graphs = DecodeGraphs(model, store, max_len=MAX_LEN, device=CudaGraphs(gpu))
        assert selfcheck.check_graphs(model, graphs, store) <= selfcheck.TOLERANCES[DTYPE]
        model.use_graphs(graphs)
    return model, Engine(model, BLOCKS, PAGE, "gpu", store)


def test_flash_equals_sdpa_through_the_engine(flash: FlashFunction, gpu: torch.device) -> None:
    (_, ours), (_, reference) = engine_of(gpu, FlashBackend(flash)), engine_of(gpu, SdpaBackend())
    for one, other in zip(decode(ours), decode(reference), strict=True):
        assert selfcheck.relative_difference(one, other) <= selfcheck.TOLERANCES[DTYPE]


def test_replayed_graphs_equal_computed_passes(flash: FlashFunction, gpu: torch.device) -> None:
    _, graphed = engine_of(gpu, FlashBackend(flash), graphed=True)
    _, computed = engine_of(gpu, FlashBackend(flash))
    for ours, reference in zip(decode(graphed), decode(computed), strict=True):
        assert ours.isfinite().all()
        assert selfcheck.relative_difference(ours, reference) < 0.02
