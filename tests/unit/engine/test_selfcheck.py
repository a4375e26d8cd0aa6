"""The comparison at start-up notices what goes wrong."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from minedraft.errors import SetupError
from minedraft.kv.store import KVStore
from minedraft.model import selfcheck
from minedraft.model.attention import AttentionPlan
from minedraft.model.flash import FlashBackend, FlashPlan
from minedraft.model.hf import HFModel
from minedraft.model.ragged import RaggedBatch
from minedraft.model.sdpa import SdpaBackend
from tests.models import tiny_model
from tests.unit.engine.flash_double import flash_attn_varlen_func

DTYPES = ["float64", "float32", "float16", "bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sound_model_passes(dtype: str) -> None:
    model = tiny_model(dtype=dtype, layers=4)
    assert selfcheck.check(model) < selfcheck.TOLERANCES[model.dtype] / 2


def test_a_short_model_passes() -> None:
    assert selfcheck.check(tiny_model(max_len=4)) < 1e-5


def test_the_models_attention_is_put_back() -> None:
    model = tiny_model()
    selfcheck.check(model)
    assert model.module.config._attn_implementation == "minedraft_paged"


class Wrong:
    """Attention with one fault."""

    name = "wrong"
    block_size = 0

    def __init__(self, spoil_batch: Callable[[RaggedBatch], RaggedBatch], scale: float = 1.0) -> None:
        self._spoil_batch = spoil_batch
        self._scale = scale

    def plan(self, batch: RaggedBatch, *, group_size: int, dtype: torch.dtype, device: torch.device) -> AttentionPlan:
        right = SdpaBackend().plan(self._spoil_batch(batch), group_size=group_size, dtype=dtype, device=device)
        scale = self._scale

        class Plan:
            def attend(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
                return right.attend(query, keys, values, scaling * scale)

        return Plan()


def rebuilt(batch: RaggedBatch, change: Callable[[np.ndarray, int], np.ndarray]) -> RaggedBatch:
    kv_slots = tuple(change(slots, new) for slots, new in zip(batch.kv_slots, batch.query_lens, strict=True))
    return RaggedBatch(batch.token_ids, batch.positions, batch.slots, batch.query_lens, kv_slots, batch.logit_rows)


FAULTS = {
    "the token before is not seen": lambda slots, new: (
        np.concatenate([slots[: -new - 1], slots[-new:]]) if len(slots) > new else slots
    ),
    "the first token is forgotten": lambda slots, new: slots[1:] if len(slots) > new else slots,
    "only the step's own tokens are seen": lambda slots, new: slots[-new:],
    "another sequence's slot is read": lambda slots, new: np.concatenate([[0], slots[1:]]),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_wrong_slots_are_noticed(fault: Callable[[np.ndarray, int], np.ndarray], dtype: str) -> None:
    sound = tiny_model(dtype=dtype, layers=4)
    broken = HFModel(sound.module, model_id="broken", backend=Wrong(lambda batch: rebuilt(batch, fault)))
    with pytest.raises(SetupError, match=r"self-check failed: .* differs from the stock llama model by [\d.]+"):
        selfcheck.check(broken)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_wrong_scale_is_noticed(dtype: str) -> None:
    sound = tiny_model(dtype=dtype, layers=4)
    broken = HFModel(sound.module, model_id="broken", backend=Wrong(lambda batch: batch, scale=0.3))
    with pytest.raises(SetupError, match="self-check failed"):
        selfcheck.check(broken)


class Stale(HFModel):
    """Does not write what it is fed past the first pass over a slot: rejected drafts stay in the cache."""

    def forward(self, batch: RaggedBatch, store: KVStore) -> Tensor:
        before = [(keys.clone(), values.clone()) for keys, values in zip(store.keys, store.values, strict=True)]
        logits = super().forward(batch, store)
        for (keys, values), now_keys, now_values in zip(before, store.keys, store.values, strict=True):
            written = keys.flatten(1).any(dim=1)
            now_keys[written], now_values[written] = keys[written], values[written]
        return logits


def test_a_stale_cache_is_noticed() -> None:
    with pytest.raises(SetupError, match="self-check failed"):
        selfcheck.check(Stale(tiny_model().module, model_id="stale"))


class Shifted(HFModel):
    """Positions count from 1."""

    def forward(self, batch: RaggedBatch, store: KVStore) -> Tensor:
        slots = batch.kv_slots
        moved = RaggedBatch(
            batch.token_ids, batch.positions * 2, batch.slots, batch.query_lens, slots, batch.logit_rows
        )
        return super().forward(moved, store)


def test_wrong_positions_are_noticed() -> None:
    with pytest.raises(SetupError, match="self-check failed"):
        selfcheck.check(Shifted(tiny_model().module, model_id="shifted"))


class NaN(HFModel):
    def forward(self, batch: RaggedBatch, store: KVStore) -> Tensor:
        return super().forward(batch, store) * torch.nan


def test_nan_is_noticed() -> None:
    with pytest.raises(SetupError, match=re.escape("by nan")):
        selfcheck.check(NaN(tiny_model().module, model_id="nan"))


def test_relative_difference() -> None:
    stock = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    assert selfcheck.relative_difference(stock + 5.0, stock) == 0.0  # a shift changes no law
    assert selfcheck.relative_difference(stock * 1.5, stock) == pytest.approx(0.5)
    assert selfcheck.relative_difference(stock, torch.zeros(2, 2)) == float("inf")


class WrongFlash(FlashBackend):
    """Sound while a context lies in one block, which the comparison with the stock model alone would let pass."""

    def plan(self, batch: RaggedBatch, *, group_size: int, dtype: torch.dtype, device: torch.device) -> FlashPlan:
        def second_is_first(slots: np.ndarray, _: int) -> np.ndarray:
            if len(slots) <= self.block_size:
                return slots
            return np.concatenate([slots[: self.block_size], slots[: len(slots) - self.block_size]])

        wrong = rebuilt(batch, second_is_first)
        return super().plan(wrong, group_size=group_size, dtype=dtype, device=device)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_another_backend_is_compared_with_the_reference(dtype: str) -> None:
    module = tiny_model(dtype=dtype, layers=4, max_len=600).module
    sound = HFModel(module, model_id="sound", backend=FlashBackend(flash_attn_varlen_func))
    assert selfcheck.check(sound) < selfcheck.TOLERANCES[sound.dtype] / 2
    assert sound.attention_backend == "flash_attn"
    broken = HFModel(module, model_id="broken", backend=WrongFlash(flash_attn_varlen_func))
    with pytest.raises(SetupError, match="self-check failed: flash_attn differs from sdpa by"):
        selfcheck.check(broken)


def test_nan_on_either_side_is_noticed() -> None:
    one, other = torch.ones(2, 3), torch.full((2, 3), torch.nan)
    assert np.isnan(selfcheck._worst([one, other, one], [torch.rand(2, 3)] * 3))
