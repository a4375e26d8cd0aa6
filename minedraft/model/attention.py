"""Attention over the paged KV store, plugged into the modelling code of `transformers`.

`transformers` calls one function in every attention layer. Ours, `paged_attention`, writes the new K and V to their
slots and hands the queries to a backend. What a backend needs beside Q, K and V is the same in every layer, so it is
planned once a pass and travels through the model's forward as the keyword argument `paged`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor, nn

from minedraft.errors import InternalError, SetupError
from minedraft.kv.store import KVStore
from minedraft.model.ragged import RaggedBatch

NAME: Final = "minedraft_paged"

# Keyword arguments that reach an attention function and ask nothing of it; so do those that are None or False.
HARMLESS_ARGUMENTS: Final = frozenset({"position_ids", "cache_position", "use_cache", "position_embeddings"})


class AttentionPlan(Protocol):
    """One pass's attention, ready to be run in each layer."""

    def attend(self, query: Tensor, keys: Tensor, values: Tensor, scaling: float) -> Tensor:
        """Attention of the new tokens to their own sequences, causal.

        `query` [T, heads, head_dim]; `keys`, `values` [slots, kv_heads, head_dim], one layer of the store, already
        holding the new tokens. Returns [T, heads, head_dim].
        """


class AttentionBackend(Protocol):
    """A way to compute attention over the store."""

    @property
    def name(self) -> str: ...

    @property
    def block_size(self) -> int:
        """Tokens in the store's blocks that it can read; 0: blocks of any size."""

    def plan(self, batch: RaggedBatch, *, group_size: int, dtype: torch.dtype, device: torch.device) -> AttentionPlan:
        """Everything that all layers share. `group_size` is query heads for each KV head."""


@dataclass(frozen=True, slots=True)
class PagedStep:
    """What travels through the model's forward."""

    plan: AttentionPlan
    store: KVStore
    slots: Tensor  # [T] int64, where the new K and V go
    max_len: int


def paged_attention(
    module: nn.Module,
    query: Tensor,  # [1, heads, T, head_dim]
    key: Tensor,  # [1, kv_heads, T, head_dim]
    value: Tensor,  # [1, kv_heads, T, head_dim]
    attention_mask: Tensor | None,
    *,
    scaling: float,
    paged: PagedStep | None = None,
    dropout: float = 0.0,
    **others: object,
) -> tuple[Tensor, None]:
    """The attention function registered with `transformers`. Returns ([1, T, heads, head_dim], None).

    Raises SetupError when the model asks for what this function does not do: better no answer than a wrong one.
    """
    if paged is None:
        raise SetupError(f"{type(module).__name__} drops the arguments of the paged cache: it cannot be served")
    if attention_mask is not None or dropout != 0.0 or others:
        _refuse_unknown(module, attention_mask, dropout, others, paged.max_len)
    layer = getattr(module, "layer_idx", None)
    if not isinstance(layer, int):
        raise SetupError(f"{type(module).__name__} does not say which layer it is: it cannot be served")
    keys, values = paged.store.keys[layer], paged.store.values[layer]
    keys.index_copy_(0, paged.slots, key[0].transpose(0, 1))
    values.index_copy_(0, paged.slots, value[0].transpose(0, 1))
    return paged.plan.attend(query[0].transpose(0, 1), keys, values, scaling).unsqueeze(0), None


def _refuse_unknown(
    module: nn.Module, mask: Tensor | None, dropout: float, others: Mapping[str, object], max_len: int
) -> None:
    unknown = [
        name
        for name, given in others.items()
        if given is not None
        and given is not False
        and name not in HARMLESS_ARGUMENTS
        # A window that no sequence outgrows is full attention.
        and not (name == "sliding_window" and isinstance(given, int) and given >= max_len)
    ]
    if mask is not None:
        unknown.append("attention_mask")
    if dropout != 0.0:
        unknown.append("dropout")
    if unknown:
        asked = ", ".join(sorted(unknown))
        raise SetupError(f"{type(module).__name__} asks attention for {asked}, which the paged cache does not do")


def register(attention_interface: object) -> None:
    """Register with `transformers`' public interface.

    Masks are ours alone. An attention function without a mask function of the same name gets none; with one,
    `transformers` 5.23 first looks for packed sequences in `position_ids`, which waits for the device in every pass
    and cannot be captured in a graph (`masking_utils.find_packed_sequence_indices`).
    """
    add = getattr(attention_interface, "register", None)
    if add is None:
        raise InternalError("this version of transformers has no attention registry")
    add(NAME, paged_attention)


def query_offsets(query_lens: Sequence[int]) -> list[int]:
    """Index of each sequence's first token in the batch, and the total at the end."""
    offsets = [0]
    for length in query_lens:
        offsets.append(offsets[-1] + length)
    return offsets
