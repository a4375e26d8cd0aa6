"""A double of `flash_attn.flash_attn_varlen_func` for CPUs: its rules, enforced, and its arithmetic in float32.

Sources, all of Dao-AILab/flash-attention 2.8:
- INTERFACE: flash_attn/flash_attn_interface.py, flash_attn_varlen_func and its docstring
- API: csrc/flash_attn/flash_api.cpp, mha_varlen_fwd, whose TORCH_CHECKs are quoted
- KERNEL: csrc/flash_attn/src/kernel_traits.h and flash_fwd_kernel.h: what the kernel takes for granted, and reads past
  its tensors if it is not so
Where the real function would quietly copy the cache, or read another's memory, the double refuses.

As in the real package the work is one operator of torch, so that the double of CUDA graphs sees one operation.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

PAGE = 256
VECTOR = 16  # bytes: kGmemElemsPerLoad = sizeof(uint128_t) / sizeof(Element)

INTERFACE, API, KERNEL = "flash_attn_interface.py", "flash_api.cpp", "kernel"


class RuleBroken(RuntimeError):
    """The call breaks a rule of flash-attn. TORCH_CHECK raises RuntimeError too."""

    def __init__(self, rule: str, source: str) -> None:
        super().__init__(f"{rule} ({source})")


def require(holds: bool, rule: str, source: str) -> None:
    if not holds:
        raise RuleBroken(rule, source)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
    block_table: Tensor | None = None,
) -> Tensor:
    """The paged form alone: other arguments than minedraft's are refused."""
    require(dropout_p == 0.0, "dropout_p should be set to 0.0 during evaluation", INTERFACE)
    plain = window_size == (-1, -1) and softcap == 0.0 and alibi_slopes is None
    require(plain and not deterministic and not return_attn_probs, "this double has no such argument", INTERFACE)
    require(block_table is not None, "this double has the paged form alone", INTERFACE)
    assert block_table is not None
    _check_tensors(q, k, v, cu_seqlens_q, cu_seqlens_k, block_table)
    for bound in (max_seqlen_q, max_seqlen_k):
        require(type(bound) is int, "max_seqlen: int. Maximum sequence length in the batch", INTERFACE)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    attended: Tensor = _attend(
        q, k, v, cu_seqlens_q, cu_seqlens_k, block_table, max_seqlen_q, max_seqlen_k, scale, causal
    )
    return attended


def _check_tensors(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, table: Tensor) -> None:
    require(q.dtype in {torch.float16, torch.bfloat16}, "FlashAttention only support fp16 and bf16 data type", API)
    require(k.dtype == q.dtype, "query and key must have the same dtype", API)
    require(v.dtype == q.dtype, "query and value must have the same dtype", API)
    require(cu_q.dtype == torch.int32, "cu_seqlens_q must have dtype int32", API)
    require(cu_k.dtype == torch.int32, "cu_seqlens_k must have dtype int32", API)
    require(table.dtype == torch.int32, "block_table must have dtype torch.int32", API)
    require(q.dim() == 3, "q: (total_q, nheads, headdim)", INTERFACE)
    require(k.dim() == v.dim() == 4, "k, v: num_blocks x page_block_size x num_heads_k x head_size", API)
    require(table.dim() == 2 and table.stride(-1) == 1, "block_table must have contiguous last dimension", API)
    require(cu_q.is_contiguous() and cu_k.is_contiguous(), "cu_seqlens must be contiguous", API)
    batch, (_, heads, head_dim), (blocks, page, kv_heads, _) = len(cu_q) - 1, q.shape, k.shape
    require(batch > 0, "batch size must be positive", API)
    require(page % PAGE == 0, "Paged KV cache block size must be divisible by 256", API)
    require(head_dim <= 256, "FlashAttention forward only supports head dimension at most 256", API)
    require(head_dim % 8 == 0, "head_size % 8 != 0 pads a copy of q, k and v: of the whole cache", API)
    require(heads % kv_heads == 0, "Number of heads in key/value must divide number of heads in query", API)
    require(k.shape == v.shape == (blocks, page, kv_heads, head_dim), "k and v must have the shape of the cache", API)
    require(cu_q.shape == cu_k.shape == (batch + 1,), "cu_seqlens must have shape (batch_size + 1)", API)
    require(len(table) == batch, "block_table must have shape (batch_size, max_num_blocks_per_seq)", API)
    for tensor in (q, k, v):
        # maybe_contiguous would copy, in every layer, what of the cache is gigabytes.
        require(tensor.stride(-1) == 1, "Input tensor must have contiguous last dimension", API)
        steps = [stride * tensor.element_size() for stride in tensor.stride()[:-1]]
        aligned = all(number % VECTOR == 0 for number in (tensor.data_ptr(), *steps))
        require(aligned, "rows are read 16 bytes at a time: addresses and strides must be multiples", KERNEL)


@torch.library.custom_op("minedraft_test::flash_varlen", mutates_args=())
def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    table: Tensor,
    max_q: int,
    max_k: int,
    scale: float,
    causal: bool,
) -> Tensor:
    """What the kernel does, after what it takes for granted of the numbers in its tensors."""
    q_ends, k_ends = cu_q.tolist(), cu_k.tolist()
    q_lens = [end - start for start, end in pairwise(q_ends)]
    k_lens = [end - start for start, end in pairwise(k_ends)]
    require(q_ends[0] == k_ends[0] == 0, "cu_seqlens begin with 0", INTERFACE)
    require(q_ends[-1] == len(q), "cu_seqlens_q ends with total_q", INTERFACE)
    require(min(q_lens) >= 0 and min(k_lens) >= 0, "cu_seqlens are cumulative", INTERFACE)
    require(max(q_lens) <= max_q, "max_seqlen_q: Maximum query sequence length in the batch", INTERFACE)
    require(max(k_lens) <= max_k, "max_seqlen_k: Maximum key sequence length in the batch", INTERFACE)
    # mha_varlen_fwd reshapes q to [batch, ...] when max_seqlen_q is 1: issue 1537.
    require(max_q > 1 or set(q_lens) == {1}, "with max_seqlen_q 1 every sequence has one query", API)
    page = k.shape[1]
    require(-(-max(k_lens) // page) <= table.shape[1], "the block table covers every context", KERNEL)
    in_range = bool(((table >= 0) & (table < len(k))).all())
    require(in_range, "every entry of the block table, padding too, names a block", KERNEL)
    out = torch.zeros_like(q, memory_format=torch.contiguous_format)
    for row, (q_len, k_len) in enumerate(zip(q_lens, k_lens, strict=True)):
        own = slice(q_ends[row], q_ends[row + 1])
        pages = table[row, : -(-k_len // page)].long()
        keys, values = k[pages].flatten(0, 1)[:k_len], v[pages].flatten(0, 1)[:k_len]
        out[own] = _one(q[own], keys, values, scale, causal, q_len, k_len).to(q.dtype)
    return out


def _one(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool, q_len: int, k_len: int) -> Tensor:
    """One sequence. "The causal mask is aligned to the bottom right corner"; a row without keys is zero."""
    group = q.shape[1] // k.shape[1]
    keys, values = (part.float().repeat_interleave(group, dim=1) for part in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q.float(), keys) * scale
    if causal:
        last_seen = torch.arange(q_len)[:, None] + (k_len - q_len)
        scores = scores.masked_fill(torch.arange(k_len) > last_seen, -torch.inf)
    return torch.einsum("hqk,khd->qhd", scores.softmax(dim=-1).nan_to_num(0.0), values)
