"""The flash_attn backend over a double of its function that enforces the rules of the real one. No GPU is used."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from minedraft.engine.runner import Engine, Feed
from minedraft.errors import InternalError
from minedraft.kv.pool import BlockPool
from minedraft.kv.store import KVStore
from minedraft.kv.table import BlockTable
from minedraft.model.flash import FlashBackend, fill_block_table
from minedraft.model.hf import HFModel
from minedraft.model.llama import LlamaModel
from minedraft.model.ragged import RaggedBatch, Segment, assemble
from minedraft.model.sdpa import SdpaBackend
from tests.models import tiny_model
from tests.unit.engine.flash_double import RuleBroken, flash_attn_varlen_func
from tests.unit.engine.helpers import begun, engine, feed, item

CPU = torch.device("cpu")
KV_HEADS, HEAD_DIM, PAGE = 2, 16, 256
TOLERANCES = {torch.float16: 4e-3, torch.bfloat16: 3e-2}

sequences = st.lists(
    st.tuples(
        st.sampled_from([0, 1, 7, 254, 255, 256, 257, 300, 511, 512, 600]),  # cached
        st.sampled_from([1, 1, 1, 2, 5, 6, 17, 40, 256, 258]),  # new
    ),
    min_size=1,
    max_size=5,
)


def paged(shape: list[tuple[int, int]], seed: int) -> tuple[RaggedBatch, KVStore]:
    """Sequences in blocks that a busy pool gave them, and a store with numbers only where they own slots."""
    rng = np.random.default_rng(seed)
    need = sum(-(-(cached + new) // PAGE) for cached, new in shape)
    pool = BlockPool(2 * need + 1)
    taken = pool.allocate(pool.num_blocks)
    rng.shuffle(taken)
    pool.release(taken)
    dtype = torch.float16
    store = KVStore(1, KV_HEADS, HEAD_DIM, num_blocks=pool.num_blocks, block_size=PAGE, dtype=dtype, device=CPU)
    store.keys[0].fill_(torch.nan)
    store.values[0].fill_(torch.nan)
    generator = torch.Generator().manual_seed(seed)
    segments = []
    for cached, new in shape:
        table = BlockTable(PAGE)
        table.grow(pool, cached + new)
        slots = table.slots(0, cached + new)
        segments.append(Segment([0] * new, cached, slots, 1))
        for tensor in (store.keys[0], store.values[0]):
            tensor[torch.from_numpy(slots)] = torch.randn(len(slots), KV_HEADS, HEAD_DIM, generator=generator).to(dtype)
    return assemble(segments), store


@given(sequences, st.sampled_from([1, 3]), st.sampled_from(list(TOLERANCES)), st.integers(0, 999))
@settings(max_examples=30, deadline=None)
def test_attention_equals_sdpa(shape: list[tuple[int, int]], group: int, dtype: torch.dtype, seed: int) -> None:
    batch, store = paged(shape, seed)
    generator = torch.Generator().manual_seed(seed)
    query = torch.randn(len(batch.token_ids), KV_HEADS * group, HEAD_DIM, generator=generator).to(dtype)
    keys, values = store.keys[0].to(dtype), store.values[0].to(dtype)
    plans = [
        backend.plan(batch, group_size=group, dtype=dtype, device=CPU)
        for backend in (FlashBackend(flash_attn_varlen_func), SdpaBackend())
    ]
    for _ in range(2):  # two layers share a plan
        ours, reference = (plan.attend(query, keys, values, 0.3) for plan in plans)
        assert ours.dtype == dtype
        torch.testing.assert_close(ours, reference, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype])
        keys, values = keys.flip(1), values * 0.5


def test_pages_may_be_any_multiple() -> None:
    slots = np.arange(512, 512 + 700)
    batch = assemble([Segment([0] * 3, 697, slots, 1)])
    keys = torch.randn(2048, KV_HEADS, HEAD_DIM, generator=torch.Generator().manual_seed(0)).half()
    query = keys[:3].repeat(1, 2, 1)
    ours, reference = (
        backend.plan(batch, group_size=2, dtype=torch.float16, device=CPU).attend(query, keys, keys, 0.3)
        for backend in (FlashBackend(flash_attn_varlen_func, 512), SdpaBackend())
    )
    torch.testing.assert_close(ours, reference, rtol=4e-3, atol=4e-3)


def test_block_tables_name_only_blocks_of_the_sequence() -> None:
    slots = [np.r_[768:1024, 0:10], np.r_[256:300]]
    table = np.full((3, 4), -1, dtype=np.int32)
    fill_block_table(table, slots, PAGE)
    assert table.tolist() == [[3, 0, 3, 3], [1, 1, 1, 1], [-1] * 4]


@pytest.mark.parametrize("slots", [np.arange(5, 9), np.r_[256:512, 100:104]], ids=["start", "second block"])
def test_slots_outside_blocks_are_refused(slots: np.ndarray) -> None:
    batch = assemble([Segment([1], len(slots) - 1, slots, 1)])
    with pytest.raises(InternalError, match="do not lie in them"):
        FlashBackend(flash_attn_varlen_func).plan(batch, group_size=1, dtype=torch.float16, device=CPU)


def flashing(dtype: str, kind: type[HFModel] = LlamaModel) -> tuple[HFModel, HFModel]:
    """A tiny model over flash_attn, and the same over sdpa."""
    made = tiny_model(dtype=dtype, max_len=1024)
    return (
        kind(made.module, model_id="flash", backend=FlashBackend(flash_attn_varlen_func)),
        kind(made.module, model_id="sdpa", backend=SdpaBackend()),
    )


def close(first: Tensor, second: Tensor) -> None:
    scale = float(second.float().square().mean()) ** 0.5
    assert float((first.float() - second.float()).square().mean()) ** 0.5 < 0.05 * scale


@pytest.mark.parametrize("kind", [HFModel, LlamaModel])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_an_engine_over_flash_attn(dtype: str, kind: type[HFModel]) -> None:
    """Prefill over the end of a block, verification, rollback and decoding, mixed in one pass."""
    engines = [engine(model, num_blocks=8, block_size=PAGE) for model in flashing(dtype, kind)]
    assert [on.info.attention_backend for on in engines] == ["flash_attn", "sdpa"]
    rng = np.random.default_rng(0)
    prompt = tuple(rng.integers(20, 300, 250).tolist())

    def steps(on: Engine) -> list[Tensor]:
        logits = [feed(on, item(1, 0, prompt)), feed(on, item(2, 0, prompt[:9]), (5, 6))]
        long, short = begun(on, item(1, 250, (40, 41, 42, 43, 44)), reserve=4), begun(on, item(2, 9, (5, 99)))
        chunk = begun(on, item(3, 0, prompt[:30]))
        mixed = on.forward(
            [Feed(long, (*long.feed, 7, 8, 9, 10), 5), Feed(short, short.feed, 1), Feed(chunk, chunk.feed, 0)]
        )
        return [*logits, mixed, feed(on, item(1, 255, (7, 30))), feed(on, item(3, 30, (8,)))]

    for ours, reference in zip(*map(steps, engines), strict=True):
        close(ours, reference)


def test_a_store_of_other_blocks_is_refused() -> None:
    on = engine(flashing("float16")[0], num_blocks=8, block_size=16)
    with pytest.raises(InternalError, match="reads blocks of 256 tokens, and the store's have 16"):
        feed(on, item(1, 0, (5, 6, 7)))


# What the double refuses. Each case breaks one rule of a call that is right otherwise.


def call(**changes: object) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    cache = torch.randn(3, PAGE, KV_HEADS, HEAD_DIM, generator=generator).half()
    arguments: dict[str, object] = {
        "q": torch.randn(4, 4, HEAD_DIM, generator=generator).half(),
        "k": cache,
        "v": cache,
        "cu_seqlens_q": torch.tensor([0, 3, 4], dtype=torch.int32),
        "cu_seqlens_k": torch.tensor([0, 260, 280], dtype=torch.int32),
        "max_seqlen_q": 3,
        "max_seqlen_k": 260,
        "softmax_scale": 0.25,
        "causal": True,
        "block_table": torch.tensor([[2, 0], [1, 1]], dtype=torch.int32),
    }
    return flash_attn_varlen_func(**(arguments | changes))  # type: ignore[arg-type]


def numbers(*shape: int, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


def caches(*shape: int) -> dict[str, object]:
    return {"k": numbers(*shape), "v": numbers(*shape)}


def test_the_double_takes_a_right_call() -> None:
    assert call().isfinite().all()


VIOLATIONS: dict[str, tuple[str, dict[str, object]]] = {
    "float32": ("only support fp16 and bf16", {"q": numbers(4, 4, HEAD_DIM, dtype=torch.float32)}),
    "mixed dtypes": ("same dtype", {"q": numbers(4, 4, HEAD_DIM, dtype=torch.bfloat16)}),
    "int64 lengths": ("cu_seqlens_k must have dtype int32", {"cu_seqlens_k": torch.tensor([0, 260, 280])}),
    "int64 table": ("block_table must have dtype", {"block_table": torch.tensor([[2, 0], [1, 1]])}),
    "pages of 16": ("divisible by 256", caches(48, 16, KV_HEADS, HEAD_DIM)),
    "wide heads": ("at most 256", {**caches(3, PAGE, 2, 264), "q": numbers(4, 4, 264)}),
    "odd heads": ("% 8", {**caches(3, PAGE, 2, 12), "q": numbers(4, 4, 12)}),
    "head counts": ("must divide", {"q": numbers(4, 3, HEAD_DIM)}),
    "no paging": ("num_blocks x page_block_size", caches(768, KV_HEADS, HEAD_DIM)),
    "strided rows": ("contiguous last dimension", {"q": numbers(4, 4, 2 * HEAD_DIM)[..., ::2]}),
    "strided table": ("contiguous last dimension", {"block_table": torch.zeros(2, 4, dtype=torch.int32)[:, ::2]}),
    "odd address": ("16 bytes", {"q": numbers(4 * 4 * HEAD_DIM + 1)[1:].view(4, 4, HEAD_DIM)}),
    "odd stride": ("16 bytes", {"q": numbers(4, 4 * HEAD_DIM + 1)[:, : 4 * HEAD_DIM].view(4, 4, HEAD_DIM)}),
    "table of fewer rows": ("batch_size", {"block_table": torch.zeros(1, 2, dtype=torch.int32)}),
    "table too narrow": ("covers every context", {"block_table": torch.zeros(2, 1, dtype=torch.int32)}),
    "no such block": ("names a block", {"block_table": torch.tensor([[2, 0], [1, 3]], dtype=torch.int32)}),
    "padding of -1": ("padding too", {"block_table": torch.tensor([[2, 0], [1, -1]], dtype=torch.int32)}),
    "low bound of queries": ("max_seqlen_q", {"max_seqlen_q": 2}),
    "low bound of contexts": ("max_seqlen_k", {"max_seqlen_k": 256}),
    "a bound in a tensor": ("int", {"max_seqlen_k": torch.tensor(260)}),
    "lengths of another batch": ("total_q", {"cu_seqlens_q": torch.tensor([0, 3, 5], dtype=torch.int32)}),
    "a sequence without a query": (
        "one query",
        {"cu_seqlens_q": torch.tensor([0, 0, 1], dtype=torch.int32), "max_seqlen_q": 1, "q": numbers(1, 4, HEAD_DIM)},
    ),
}


@pytest.mark.parametrize(("rule", "changes"), VIOLATIONS.values(), ids=VIOLATIONS)
def test_the_double_refuses(rule: str, changes: dict[str, object]) -> None:
    with pytest.raises(RuleBroken, match=rule):
        call(**changes)


def test_the_double_aligns_its_mask_as_documented() -> None:
    """ "If seqlen_q = 2 and seqlen_k = 5" the first query sees four keys; with 5 and 2, three queries see none."""
    values = torch.zeros(1, PAGE, 1, 8)
    values[0, :5, 0, 0] = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0])

    def seen(queries: int, keys: int) -> list[float]:
        output = flash_attn_varlen_func(
            numbers(queries, 1, 8),
            numbers(1, PAGE, 1, 8),
            values.half(),
            torch.tensor([0, queries], dtype=torch.int32),
            torch.tensor([0, keys], dtype=torch.int32),
            queries,
            keys,
            causal=True,
            block_table=torch.zeros(1, 1, dtype=torch.int32),
        )
        return [round(float(number), 3) for number in output[:, 0, 0]]

    assert seen(2, 5) == [15 / 4, 6.199]  # 31 / 5 in half precision
    assert math.isclose(31 / 5, 6.199, abs_tol=2e-3)
    assert seen(5, 2) == [0, 0, 0, 1, 1.5]
