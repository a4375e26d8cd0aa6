"""Models of `transformers` over the paged store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn

from minedraft.errors import InternalError, SetupError
from minedraft.kv.store import KVStore
from minedraft.model import attention
from minedraft.model.architectures import check_architecture, longest
from minedraft.model.attention import AttentionBackend, AttentionPlan, PagedStep
from minedraft.model.draft_vocabulary import known_tokens
from minedraft.model.graphs import DecodeGraphs
from minedraft.model.ragged import RaggedBatch
from minedraft.model.sdpa import SdpaBackend
from minedraft.model.staging import Stager

if TYPE_CHECKING:  # importing transformers takes seconds, which a simulated model need not wait for
    from transformers import PreTrainedModel

STOCK: Final = "eager"  # the attention that every architecture brings along


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
        self._stager = Stager(self.device)
        self._graphs: DecodeGraphs | None = None
        from transformers import AttentionInterface

        attention.register(AttentionInterface)
        self.use_attention(attention.NAME)

    @property
    def attention_backend(self) -> str:
        return self._backend.name

    @property
    def backend(self) -> AttentionBackend:
        return self._backend

    def use_backend(self, backend: AttentionBackend) -> None:
        """Compute attention with `backend` from now on. Graphs that were captured with another are dropped."""
        self._backend, self._graphs = backend, None

    def use_graphs(self, graphs: DecodeGraphs | None) -> None:
        """Replay `graphs` for the passes that they fit; None computes every pass anew."""
        self._graphs = graphs

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
        if self._graphs is not None and (replayed := self._graphs.forward(batch, store)) is not None:
            return replayed
        if self._backend.block_size not in {0, store.block_size}:
            raise InternalError(
                f"{self._backend.name} reads blocks of {self._backend.block_size} tokens, "
                f"and the store's have {store.block_size}"
            )
        logits = self.compute(*self.staged(batch), store)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return logits

    def staged(self, batch: RaggedBatch) -> tuple[Tensor, Tensor, Tensor, Tensor, AttentionPlan]:
        """What `compute` takes of a batch, on the device."""
        sent = self._stager.send(batch.token_ids, batch.positions, batch.slots, batch.logit_rows)
        token_ids, positions, slots, rows = sent
        plan = self._backend.plan(batch, group_size=self._group_size, dtype=self.dtype, device=self.device)
        return token_ids, positions, slots, rows, plan

    @torch.inference_mode()
    def stock_logits(self, token_ids: Sequence[int]) -> Tensor:
        """Logits of every token of one sequence by the module's own eager attention, without a cache: [n, V]."""
        served = self.module.config._attn_implementation
        self.use_attention(STOCK)
        try:
            given = torch.tensor([token_ids], device=self.device)
            logits: Tensor = self.module(input_ids=given, use_cache=False).logits[0]
        finally:
            self.use_attention(served)
        return logits

    def compute(
        self, token_ids: Tensor, positions: Tensor, slots: Tensor, rows: Tensor, plan: AttentionPlan, store: KVStore
    ) -> Tensor:
        """The pass itself, all on the device: T tokens, their places, and the R rows whose logits are wanted.

        The first three are int64 [T], `rows` is int64 [R]. Called in inference mode. Returns logits that may still be
        on their way.
        """
        logits: Tensor = self.module(
            input_ids=token_ids.unsqueeze(0),
            position_ids=positions.unsqueeze(0),
            logits_to_keep=rows,
            use_cache=False,
            paged=PagedStep(plan, store, slots, self.max_len),
        ).logits[0]
        return logits
