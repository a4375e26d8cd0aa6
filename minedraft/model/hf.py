"""Models of `transformers` over the paged store."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

from minedraft.errors import SetupError
from minedraft.kv.store import KVStore
from minedraft.model import attention
from minedraft.model.architectures import check_architecture, longest
from minedraft.model.attention import AttentionBackend, PagedStep
from minedraft.model.draft_vocabulary import known_tokens
from minedraft.model.ragged import RaggedBatch
from minedraft.model.sdpa import SdpaBackend


class HFModel:
    """A `CausalModel` around a loaded `transformers` model, whose attention it takes over.

    Raises SetupError for an architecture that is not on the list, or a `max_len` that it cannot do.
    """

    simulated = False

    def __init__(
        self,
        module: PreTrainedModel,
        *,
        model_id: str,
        max_len: int = 0,
        eos_token_ids: tuple[int, ...] = (),
        tokenizer_fingerprint: str = "",
        backend: AttentionBackend | None = None,
    ) -> None:
        config: Any = module.config
        head: Any = module.get_output_embeddings  # untyped
        check_architecture(config.model_type)
        self.module = module
        self.model_id = model_id
        self.architecture: str = config.model_type
        self.logit_token_ids = known_tokens(module)
        self.vocab_size = int(head().weight.shape[0] if self.logit_token_ids is None else config.vocab_size)
        self.max_len = longest(config, max_len)
        self.num_layers = int(config.num_hidden_layers)
        heads = int(config.num_attention_heads)
        self.kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
        self.head_dim = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        self.dtype: torch.dtype = module.dtype
        self.device: torch.device = module.device
        self.eos_token_ids = tuple(token_id for token_id in eos_token_ids if 0 <= token_id < self.vocab_size)
        self.tokenizer_fingerprint = tokenizer_fingerprint
        self._group_size = heads // self.kv_heads
        self._backend = backend or SdpaBackend()
        attention.register(AttentionInterface, AttentionMaskInterface)
        self.use_attention(attention.NAME)

    @property
    def attention_backend(self) -> str:
        return self._backend.name

    def use_attention(self, name: str) -> None:
        """Switch the module's attention. Raises SetupError when the architecture does not allow it."""
        self.module.set_attn_implementation(name)
        if self.module.config._attn_implementation != name:
            raise SetupError(f"architecture {self.architecture} does not let its attention be replaced")

    def replace_linears(self, replace: Callable[[nn.Module], int]) -> int:
        """Let `replace` put other layers in the place of each `nn.Linear` that a pass uses; how many it replaced."""
        return replace(self.module)

    @torch.inference_mode()
    def forward(self, batch: RaggedBatch, store: KVStore) -> Tensor:
        """See `CausalModel.forward`. The logits have the model's dtype."""
        indices = np.stack([batch.token_ids, batch.positions, batch.slots])
        token_ids, positions, slots = torch.from_numpy(indices).to(self.device)  # one copy to the device, [3, T]
        plan = self._backend.plan(batch, group_size=self._group_size, dtype=self.dtype, device=self.device)
        logits: Tensor = self.module(
            input_ids=token_ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            logits_to_keep=torch.from_numpy(batch.logit_rows).to(self.device),
            use_cache=False,
            paged=PagedStep(plan, store, slots, self.max_len),
        ).logits[0]
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return logits
