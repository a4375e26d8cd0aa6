"""The K and V of all sequences, one pair of tensors a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from minedraft.errors import InternalError


class KVStore:
    """Slots for the keys and values of `num_blocks * block_size` tokens in every layer.

    `keys[layer]` and `values[layer]` are [slots, kv_heads, head_dim]. The forward pass writes the slots of the tokens
    it is fed; nobody else writes. A store of 0 layers serves models without attention (`minedraft.model.simulated`).
    """

    def __init__(
        self,
        num_layers: int,
        kv_heads: int,
        head_dim: int,
        *,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        spare_blocks: int = 0,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._spare_blocks = spare_blocks
        shape = ((num_blocks + spare_blocks) * block_size, kv_heads, head_dim)
        # Zeros, since padding may read a slot before anything wrote it, and 0 * NaN is NaN.
        self.keys: list[Tensor] = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values: list[Tensor] = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]

    @property
    def num_slots(self) -> int:
        return self.num_blocks * self.block_size

    @property
    def spare_slot(self) -> int:
        """The first slot of the spare blocks. Raises InternalError in a store without any."""
        if not self._spare_blocks:
            raise InternalError("this KV store has no spare block for padding")
        return self.num_slots

    @property
    def nbytes(self) -> int:
        """Size of all tensors, bytes."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))
