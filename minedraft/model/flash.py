"""The attention backend over flash-attn: all sequences of a pass in one call that reads the paged store in place.

Not yet run on a GPU: `tests/unit/engine/flash_double.py` enforces the rules of the function on a CPU.

Source: Dao-AILab/flash-attention 2.8, `flash_attn/flash_attn_interface.py` (flash_attn_varlen_func) and
`csrc/flash_attn/flash_api.cpp` (mha_varlen_fwd). The rules that shape the code here: a page is a multiple of 256
tokens; fp16 or bf16; heads of at most 256 numbers (and a multiple of 8, else it pads a copy of the whole cache in every
call); int32 lengths and tables; and a causal mask aligned to the bottom right, as new tokens at a sequence's end need.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Final, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minedraft.errors import InternalError
from minedraft.model.attention import query_offsets
from minedraft.model.ragged import IndexArray, RaggedBatch
from minedraft.model.staging import Stager

NAME: Final = "flash_attn"
PAGE: Final = 256  # tokens; blocks must be a multiple
MAX_HEAD_DIM: Final = 256
HEAD_DIM_MULTIPLE: Final = 8
DTYPES: Final = (torch.float16, torch.bfloat16)
OLDEST_GPU: Final = (8, 0)  # compute capability: "FlashAttention only supports Ampere GPUs or newer"

Int32 = NDArray[np.int32]


class FlashFunction(Protocol):
    """`flash_attn.flash_attn_varlen_func`, as it is called here."""

    def __call__(
        self,
        q: Tensor,  # [T, heads, head_dim]
        k: Tensor,  # [num_blocks, block_size, kv_heads, head_dim]
        v: Tensor,  # like k
        *,
        cu_seqlens_q: Tensor,  # int32 [B + 1], offsets of the sequences' new tokens
        cu_seqlens_k: Tensor,  # int32 [B + 1], offsets that the contexts would have end to end
        max_seqlen_q: int,
        max_seqlen_k: int,
        softmax_scale: float,
        causal: bool,
        block_table: Tensor,  # int32 [B, blocks of the longest]
    ) -> Tensor:
        """[T, heads, head_dim]"""


class FlashBackend:
    """See the module's description. `function` is flash-attn's, or a double with the same contract."""

    name = NAME

    def __init__(self, function: FlashFunction, block_size: int = PAGE) -> None:
        self.block_size = block_size
        self._function = function
        self._stager: Stager | None = None

    def plan(self, batch: RaggedBatch, *, group_size: int, dtype: torch.dtype, device: torch.device) -> FlashPlan:
        """See `AttentionBackend.plan`. Raises InternalError when the batch's slots do not lie in blocks."""
        if self._stager is None:
            self._stager = Stager(device)
        lens = [len(slots) for slots in batch.kv_slots]
        table = np.empty((len(lens), -(-max(lens) // self.block_size)), dtype=np.int32)
        fill_block_table(table, batch.kv_slots, self.block_size)
        q_offsets = np.array(query_offsets(batch.query_lens), dtype=np.int32)
        k_offsets = np.array(query_offsets(lens), dtype=np.int32)
        offsets = self._stager.send(q_offsets, k_offsets, table)
        return self.fixed_plan(*offsets, max_queries=max(batch.query_lens), max_context=max(lens))

    def fixed_plan(
        self, q_offsets: Tensor, k_offsets: Tensor, table: Tensor, *, max_queries: int, max_context: int
    ) -> FlashPlan:
        """A plan over tensors of the caller's, which may change between passes: int32 [B + 1], [B + 1], [B, blocks].

        `max_queries` and `max_context` are bounds. They are numbers on the host, so a captured graph keeps them
        (Dao-AILab/flash-attention issue 1164): a larger bound costs a little, a smaller one gives wrong results.
        """
        return FlashPlan(self._function, self.block_size, q_offsets, k_offsets, table, max_queries, max_context)


class FlashPlan:
    """One pass's lengths and block tables."""

    def __init__(
        self,
        function: FlashFunction,
        block_size: int,
        q_offsets: Tensor,
        k_offsets: Tensor,
        table: Tensor,
        max_queries: int,
        max_context: int,
    ) -> None:
        self._function = function
        self._block_size = block_size
        self._q_offsets, self._k_offsets, self._table = q_offsets, k_offsets, table
        self._max_queries, self._max_context = max_queries, max_context

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """See `AttentionPlan.attend`."""
        blocks = (-1, self._block_size, *keys.shape[1:])
        return self._function(
            query,
            keys.view(blocks),
            values.view(blocks),
            cu_seqlens_q=self._q_offsets,
            cu_seqlens_k=self._k_offsets,
            max_seqlen_q=self._max_queries,
            max_seqlen_k=self._max_context,
            softmax_scale=scaling,
            causal=True,
            block_table=self._table,
        )


def fill_block_table(table: Int32, kv_slots: Sequence[IndexArray], block_size: int) -> None:
    """Write each sequence's block ids to the first rows of `table`, [at least B, blocks].

    The rest of a row repeats the sequence's first block: no id of a block that does not exist, nor of another sequence.
    Raises InternalError when slots do not begin at a block's start.
    """
    starts = np.empty((len(kv_slots), table.shape[1]), dtype=np.int64)
    for row, slots in zip(starts, kv_slots, strict=True):
        firsts = slots[::block_size]
        row[: len(firsts)] = firsts
        row[len(firsts) :] = firsts[0]
    blocks, rest = np.divmod(starts, block_size)
    if rest.any():
        raise InternalError(
            f"flash_attn reads blocks of {block_size} tokens, and a sequence's slots do not lie in them"
        )
    table[: len(kv_slots)] = blocks


def find_flash(device: torch.device) -> tuple[FlashFunction | None, str]:
    """flash-attn's function where this device and this installation have it, else None and the reason."""
    if device.type != "cuda":
        return None, f"it needs a CUDA device, and this is {device}"
    capability = torch.cuda.get_device_capability(device)
    if capability < OLDEST_GPU:
        return (
            None,
            f"it needs compute capability 8.0 (Ampere) or newer, and {device} has {capability[0]}.{capability[1]}",
        )
    try:
        package = importlib.import_module("flash_attn")
    except (ImportError, OSError) as error:  # a build for another torch fails with undefined symbols
        return None, f"the package flash-attn cannot be imported ({' '.join(str(error).split())[:200]})"
    function = getattr(package, "flash_attn_varlen_func", None)
    if function is None:
        return None, "the package flash-attn has no flash_attn_varlen_func"
    return cast("FlashFunction", function), "it is there"
