"""What the engine asks of a model."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from minedraft.kv.store import KVStore
from minedraft.model.ragged import RaggedBatch


class CausalModel(Protocol):
    """A causal language model over a paged KV store. Used on the engine thread only."""

    @property
    def model_id(self) -> str: ...

    @property
    def architecture(self) -> str:
        """Model type, for example "llama"."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens that it can be fed; that of logits too, unless `logit_token_ids` says otherwise."""

    @property
    def logit_token_ids(self) -> Tensor | None:
        """The tokens that a draft model with a vocabulary of its own has logits for: int64 [n], rising."""

    @property
    def max_len(self) -> int:
        """Longest sequence, tokens."""

    @property
    def num_layers(self) -> int: ...

    @property
    def kv_heads(self) -> int: ...

    @property
    def head_dim(self) -> int: ...

    @property
    def dtype(self) -> torch.dtype:
        """Number type of weights, K and V."""

    @property
    def device(self) -> torch.device: ...

    @property
    def attention_backend(self) -> str: ...

    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...

    @property
    def tokenizer_fingerprint(self) -> str:
        """See `minedraft.model.tokenizer.fingerprint`; "" when there is no tokenizer."""

    @property
    def simulated(self) -> bool: ...

    def forward(self, batch: RaggedBatch, store: KVStore) -> Tensor:
        """Feed the batch's tokens, write their K and V to `store`, return the logits of its `logit_rows`: [R, V], or
        [R, n] for the tokens of `logit_token_ids`.

        Reads only slots named by the batch. The result is complete when this returns, also on a GPU.
        """
