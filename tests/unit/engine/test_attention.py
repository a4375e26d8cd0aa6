"""The sdpa backend against attention written out, and the refusal of what it does not do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from minedraft.errors import SetupError
from minedraft.kv.store import KVStore
from minedraft.model.attention import PagedStep, paged_attention
from minedraft.model.ragged import RaggedBatch, Segment, assemble
from minedraft.model.sdpa import SdpaBackend

KV_HEADS, HEAD_DIM = 2, 8
SHAPES: dict[str, list[tuple[int, int]]] = {  # (cached, new) of each sequence
    "one token": [(0, 1)],
    "one decoding": [(12, 1)],
    "one verification": [(12, 5)],
    "even batch": [(12, 3), (12, 3)],
    "decoding at different lengths": [(3, 1), (40, 1), (0, 1)],
    "ragged": [(12, 5), (0, 2), (30, 1)],
    "a prompt": [(0, 40)],
    "a later chunk of a prompt": [(25, 17)],
    "prompts between steps": [(0, 20), (9, 4), (10, 33), (2, 1)],
    "very different contexts": [(400, 2), (3, 2), (700, 1), (350, 2), (8, 3)],
    "ordered by context, not by place": [(600, 1), (290, 1), (610, 1)],
}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 3e-2}


class Case:
    """Random K and V of some sequences, scattered over a store, and queries for their new tokens."""

    def __init__(self, shape: list[tuple[int, int]], group_size: int, dtype: torch.dtype, *, scattered: bool) -> None:
        rng = np.random.default_rng(len(shape) + group_size)
        generator = torch.Generator().manual_seed(group_size)
        total = sum(cached + new for cached, new in shape)
        slots = rng.permutation(2 * total) if scattered else np.arange(2 * total)
        self.keys = torch.randn(2 * total, KV_HEADS, HEAD_DIM, generator=generator, dtype=torch.float64).to(dtype)
        self.values = torch.randn(2 * total, KV_HEADS, HEAD_DIM, generator=generator, dtype=torch.float64).to(dtype)
        self.shape, self.group_size = shape, group_size
        segments, used = [], 0
        for cached, new in shape:
            own = slots[used : used + cached + new].astype(np.int64)
            used += cached + new
            segments.append(Segment([0] * new, cached, own, 0))
        self.batch: RaggedBatch = assemble(segments)
        for unused in slots[used:]:  # reading another's slots would show
            self.keys[int(unused)] = self.values[int(unused)] = torch.nan
        tokens = len(self.batch.token_ids)
        heads = KV_HEADS * group_size
        self.query = torch.randn(tokens, heads, HEAD_DIM, generator=generator, dtype=torch.float64).to(dtype)

    def expected(self, scaling: float) -> Tensor:
        """Written out in float64: [T, heads, head_dim]."""
        rows, first = [], 0
        for (cached, new), slots in zip(self.shape, self.batch.kv_slots, strict=True):
            index = torch.from_numpy(slots)
            keys = self.keys.double()[index].repeat_interleave(self.group_size, dim=1)  # [S, heads, D]
            values = self.values.double()[index].repeat_interleave(self.group_size, dim=1)
            for token in range(new):
                seen = cached + token + 1
                scores = torch.einsum("hd,shd->hs", self.query[first + token].double(), keys[:seen]) * scaling
                rows.append(torch.einsum("hs,shd->hd", scores.softmax(dim=1), values[:seen]))
            first += new
        return torch.stack(rows)


@pytest.mark.parametrize("scattered", [True, False])
@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_sdpa(shape: list[tuple[int, int]], dtype: torch.dtype, group_size: int, scattered: bool) -> None:
    case = Case(shape, group_size, dtype, scattered=scattered)
    plan = SdpaBackend().plan(case.batch, group_size=group_size, dtype=dtype, device=torch.device("cpu"))
    tolerance = TOLERANCES[dtype]
    for _ in range(2):  # two layers share a plan
        output = plan.attend(case.query, case.keys, case.values, 0.3)
        assert output.dtype == dtype
        torch.testing.assert_close(output.double(), case.expected(0.3), rtol=tolerance, atol=tolerance)
        case.keys = case.keys.flip(1)
        case.values = case.values * 0.5


class Layer(nn.Module):
    """As little of an attention layer as `paged_attention` needs."""

    def __init__(self, layer_idx: int | None = 0) -> None:
        super().__init__()
        self.layer_idx = layer_idx


def step(max_len: int = 32) -> tuple[PagedStep, Tensor]:
    """A step of three tokens into an empty store, and Q = K = V for them: [1, 2, 3, 4]."""
    cpu = torch.device("cpu")
    store = KVStore(2, 2, 4, num_blocks=2, block_size=4, dtype=torch.float64, device=cpu)
    slots = np.array([5, 6, 7])
    batch = assemble([Segment([1, 2, 3], 0, slots, 3)])
    plan = SdpaBackend().plan(batch, group_size=1, dtype=torch.float64, device=cpu)
    tensor = torch.randn(1, 2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return PagedStep(plan, store, torch.from_numpy(slots), max_len), tensor


def test_writes_its_own_layer_only() -> None:
    paged, tensor = step()
    output, weights = paged_attention(
        Layer(1), tensor, tensor, 2 * tensor, None, scaling=0.5, paged=paged, position_ids=tensor, sliding_window=None
    )
    assert weights is None
    assert output.shape == (1, 3, 2, 4)
    torch.testing.assert_close(paged.store.keys[1][5:], tensor[0].transpose(0, 1))
    torch.testing.assert_close(paged.store.values[1][5:], 2 * tensor[0].transpose(0, 1))
    assert not paged.store.keys[1][:5].any()
    assert not paged.store.keys[0].any()
    torch.testing.assert_close(output[0, 0], 2 * tensor[0, :, 0])  # the first token sees only itself


@pytest.mark.parametrize("name", ["softcap", "s_aux", "head_mask", "position_bias", "sliding_window", "anything_new"])
def test_unknown_arguments_are_refused(name: str) -> None:
    paged, tensor = step()
    arguments = {name: 5}
    with pytest.raises(SetupError, match=f"Layer asks attention for {name}"):
        paged_attention(Layer(), tensor, tensor, tensor, None, scaling=0.5, paged=paged, **arguments)
    assert not paged.store.keys[0].any()


def test_a_window_that_nothing_outgrows_is_no_window() -> None:
    paged, tensor = step(max_len=32)
    arguments = {"scaling": 0.5, "paged": paged}
    windowed, _ = paged_attention(Layer(), tensor, tensor, tensor, None, sliding_window=32, **arguments)  # type: ignore[arg-type]
    plain, _ = paged_attention(Layer(), tensor, tensor, tensor, None, **arguments)  # type: ignore[arg-type]
    torch.testing.assert_close(windowed, plain)
    with pytest.raises(SetupError, match="sliding_window"):
        paged_attention(Layer(), tensor, tensor, tensor, None, sliding_window=31, **arguments)  # type: ignore[arg-type]


def test_masks_and_dropout_are_refused() -> None:
    paged, tensor = step()
    with pytest.raises(SetupError, match="attention_mask, dropout"):
        paged_attention(Layer(), tensor, tensor, tensor, tensor, scaling=0.5, paged=paged, dropout=0.1)


def test_a_model_that_drops_our_argument_is_refused() -> None:
    _, tensor = step()
    with pytest.raises(SetupError, match="drops the arguments"):
        paged_attention(Layer(), tensor, tensor, tensor, None, scaling=0.5)


def test_a_layer_without_a_number_is_refused() -> None:
    paged, tensor = step()
    with pytest.raises(SetupError, match="which layer"):
        paged_attention(Layer(None), tensor, tensor, tensor, None, scaling=0.5, paged=paged)
