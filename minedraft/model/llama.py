"""The Llama family in our own words: the same arithmetic as `transformers`, with half of the operations.

A small model's pass is many small operations, and on a CPU or a fast GPU launching them is a good part of the time.
Here queries, keys and values come from one product, so do gate and up, and rotation is three operations. The
`transformers` module is the oracle: the self-check at start-up compares the two, and its layers are let go afterwards.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the name that everybody uses

from minedraft.kv.store import KVStore
from minedraft.model.attention import AttentionPlan
from minedraft.model.hf import HFModel
from minedraft.model.native import NAME, LayerWeights, LlamaWeights, NativeLlama
from minedraft.model.ragged import RaggedBatch
from minedraft.model.rms_norm import RmsNorm

if TYPE_CHECKING:  # importing transformers takes seconds, which a simulated model need not wait for
    from transformers import PreTrainedModel

FAMILY: Final = frozenset({"llama", "mistral", "qwen2"})


def is_family(config: Any) -> bool:
    """Whether the model is a Llama as it is written here."""
    return (
        config.model_type in FAMILY
        and getattr(config, "hidden_act", "") == "silu"
        and getattr(config, "partial_rotary_factor", None) in {None, 1.0}
    )


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. H hidden, N query heads, M KV heads of D, I intermediate."""

    before_attention: RmsNorm
    qkv: nn.Module  # [T, H] -> [T, (N + 2M) D]
    out: nn.Module  # [T, N D] -> [T, H]
    before_mlp: RmsNorm
    gate_up: nn.Module  # [T, H] -> [T, 2I]
    down: nn.Module  # [T, I] -> [T, H]
    scaling: float


class LlamaModel(HFModel):
    """A `CausalModel` for `is_family`. Holds its own, fused weights; `release` frees the module's."""

    def __init__(self, module: PreTrainedModel, **about: Any) -> None:
        super().__init__(module, **about)
        inner: Any = module.base_model
        head: Any = module.get_output_embeddings
        self._embed: nn.Module = inner.embed_tokens
        self._cos, self._sin = self._angles(inner.rotary_emb, self.dtype)
        self._norm = _norm(inner.norm)
        self._linears = nn.ModuleList([*(_fused(layer) for layer in inner.layers), nn.ModuleList([head()])])
        self._layers = [_layer(layer, parts) for layer, parts in zip(inner.layers, self._linears, strict=False)]
        self._rotated = int(module.config.num_attention_heads) + self.kv_heads  # heads with a rotation: N + M
        self._native: NativeLlama | None = None
        self._most_native = 0  # tokens of a pass that the native kernels take; 0: any number

    def replace_linears(self, replace: Callable[[nn.Module], int]) -> int:
        """See `HFModel.replace_linears`. The module keeps its own layers: it is the oracle."""
        count = replace(self._linears)
        self._layers = [
            dataclasses.replace(layer, qkv=qkv, out=out, gate_up=gate_up, down=down)
            for layer, (qkv, out, gate_up, down) in zip(self._layers, map(_children, self._linears), strict=False)
        ]
        return count

    def use_native(self, native: NativeLlama | None, most_tokens: int = 0) -> None:
        """Compute passes by the native kernels from now on, those of more than `most_tokens` by torch unless it is 0.
        None: all by torch."""
        self._native, self._most_native = native, most_tokens

    @property
    def attention_backend(self) -> str:
        """See `HFModel`. The native kernels bring their own attention along."""
        return super().attention_backend if self._native is None else NAME

    def weights(self) -> LlamaWeights:
        """What the native kernels compute with: the very weights, and angles in float32."""

        def parts(linear: nn.Module) -> tuple[Tensor, Tensor | None]:
            plain: Any = linear
            return plain.weight, plain.bias

        inner: Any = self.module.base_model
        cos, sin = self._angles(inner.rotary_emb, torch.float32)
        embed: Any = self._embed
        return LlamaWeights(
            layers=[
                LayerWeights(
                    layer.before_attention.weight, parts(layer.qkv), parts(layer.out),
                    layer.before_mlp.weight, parts(layer.gate_up), parts(layer.down),
                )
                for layer in self._layers
            ],
            embed=embed.weight,
            norm=self._norm.weight,
            head=parts(self._head),
            cos=cos,
            sin=sin,
            heads=self._rotated - self.kv_heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            eps=self._norm.eps,
            scaling=self._layers[0].scaling,
        )  # fmt: skip

    def release(self) -> None:
        """Free the weights of the module's layers. It cannot be the oracle any more."""
        inner: Any = self.module.base_model
        inner.layers = nn.ModuleList()
        if self._native is not None and not self._most_native:  # it has what it needs
            self._linears, self._layers = nn.ModuleList(), []

    def forward(self, batch: RaggedBatch, store: KVStore) -> Tensor:
        """See `HFModel.forward`. By the native kernels the logits are float32."""
        if self._native is None or 0 < self._most_native < len(batch.token_ids):
            return super().forward(batch, store)
        return self._native.forward(batch, store)

    @torch.inference_mode()
    def first_layer(self, batch: RaggedBatch, store: KVStore) -> None:
        """The first layer of a pass by torch, for nothing: to see how long it takes."""
        token_ids, positions, slots, _, plan = self.staged(batch)
        self._compute_layer(0, self._embed(token_ids), *self._turns(positions), slots, plan, store)

    @property
    def _head(self) -> nn.Module:
        (head,) = _children(self._linears[-1])
        return head

    @torch.inference_mode()
    def _angles(self, rotary: Any, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines of every position, as the module computes them. [max_len, D] each

        A rotation turns (a, b) into (a cos - b sin, b cos + a sin): rolled by half, (b, a) wants (-sin, sin).
        """
        probe = torch.empty(1, 1, dtype=dtype, device=self.device)
        cos, sin = rotary(probe, torch.arange(self.max_len, device=self.device).unsqueeze(0))
        half = sin.shape[-1] // 2
        return cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], dim=-1)

    def compute(
        self, token_ids: Tensor, positions: Tensor, slots: Tensor, rows: Tensor, plan: AttentionPlan, store: KVStore
    ) -> Tensor:
        """See `HFModel.compute`."""
        x: Tensor = self._embed(token_ids)  # [T, H]
        cos, sin = self._turns(positions)
        for number in range(len(self._layers)):
            x = self._compute_layer(number, x, cos, sin, slots, plan, store)
        x = x[rows]
        logits: Tensor = self._head(self._norm(x))
        return logits

    def _turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines, [T, 1, D] each."""
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)

    def _compute_layer(
        self, number: int, x: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, plan: AttentionPlan, store: KVStore
    ) -> Tensor:
        """[T, H] -> [T, H]"""
        layer = self._layers[number]
        y = layer.before_attention(x)
        x = x + layer.out(self._attend(layer, y, cos, sin, store.keys[number], store.values[number], slots, plan))
        y = layer.before_mlp(x)
        gate, up = layer.gate_up(y).chunk(2, dim=-1)
        output: Tensor = x + layer.down(F.silu(gate).mul_(up))
        return output

    def _attend(
        self, layer: Layer, y: Tensor, cos: Tensor, sin: Tensor, keys: Tensor, values: Tensor, slots: Tensor,
        plan: AttentionPlan,
    ) -> Tensor:  # fmt: skip
        """Write the new K and V, attend. [T, H] -> [T, N D]"""
        qkv = layer.qkv(y).view(len(y), -1, self.head_dim)  # [T, N + 2M, D]
        turned = qkv[:, : self._rotated]
        turned = torch.addcmul(turned * cos, turned.roll(self.head_dim // 2, -1), sin)  # [T, N + M, D]
        heads = self._rotated - self.kv_heads
        keys.index_copy_(0, slots, turned[:, heads:])
        values.index_copy_(0, slots, qkv[:, self._rotated :])
        return plan.attend(turned[:, :heads], keys, values, layer.scaling).reshape(len(y), -1)


def _fused(layer: Any) -> nn.ModuleList:
    attention, mlp = layer.self_attn, layer.mlp
    return nn.ModuleList(
        [
            _joined(attention.q_proj, attention.k_proj, attention.v_proj),
            _joined(attention.o_proj),
            _joined(mlp.gate_proj, mlp.up_proj),
            _joined(mlp.down_proj),
        ]
    )


def _children(parent: nn.Module) -> list[nn.Module]:
    return list(parent.children())


def _joined(*linears: nn.Linear) -> nn.Linear:
    """One linear layer whose output is theirs in a row. A single one stays as it is.

    Their own weights become parts of its weight, so that the module is still whole and no weight is in memory twice.
    """
    if len(linears) == 1:
        return linears[0]
    weight = torch.cat([linear.weight.detach() for linear in linears])
    for linear, part in zip(linears, torch.split(weight, [linear.out_features for linear in linears]), strict=True):
        linear.weight = nn.Parameter(part, requires_grad=False)
    biases: list[Any] = [linear.bias for linear in linears]
    joined = nn.Linear(weight.shape[1], weight.shape[0], bias=biases[0] is not None, device="meta", dtype=weight.dtype)
    joined.weight = nn.Parameter(weight, requires_grad=False)
    if biases[0] is not None:
        joined.bias = nn.Parameter(torch.cat([bias.detach() for bias in biases]), requires_grad=False)
    return joined


def _norm(module: Any) -> RmsNorm:
    return RmsNorm(module.weight.detach(), float(module.variance_epsilon))


def _layer(layer: Any, parts: Any) -> Layer:
    qkv, out, gate_up, down = parts
    return Layer(
        _norm(layer.input_layernorm),
        qkv,
        out,
        _norm(layer.post_attention_layernorm),
        gate_up,
        down,
        float(layer.self_attn.scaling),
    )
