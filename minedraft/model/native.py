"""A Llama on the native kernels: its weights where they are, and the whole pass in one call (`minedraft.native`).

Weights are bfloat16, or rounded to 8 bits with one scale a row; activations and softmax are float32, K and V bfloat16.
On CPUs with dot instructions what multiplies weights is rounded as they are, 8 bits with one scale for 32 numbers.
Every token's numbers are the same bits whatever shares its pass and however many threads compute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from minedraft.kv.store import KVStore
from minedraft.model.ragged import RaggedBatch
from minedraft.native.binding import MOST_HEAD_DIM, Batch, Kernels, Kind, Layer, Matrix, Model, Runner, find

NAME: Final = "native"
LARGEST: Final = 127


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One decoder layer. H hidden, N query heads, M KV heads of D, I intermediate."""

    before_attention: Tensor  # [H]
    qkv: tuple[Tensor, Tensor | None]  # [(N + 2M) D, H] and its bias
    out: tuple[Tensor, Tensor | None]  # [H, N D]
    before_mlp: Tensor  # [H]
    gate_up: tuple[Tensor, Tensor | None]  # [2I, H]
    down: tuple[Tensor, Tensor | None]  # [H, I]


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """A whole model. Matrices and the embedding are bfloat16, contiguous, on the CPU."""

    layers: Sequence[LayerWeights]
    embed: Tensor  # [tokens, H]
    norm: Tensor  # [H]
    head: tuple[Tensor, Tensor | None]  # [V, H]
    cos: Tensor  # [positions, D]
    sin: Tensor  # [positions, D], the first half negated
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    scaling: float


@dataclass(frozen=True, slots=True)
class Choice:
    """The kernels and the instruction set for a model, or None and why not."""

    kernels: Kernels | None
    kind: Kind | None
    reason: str


def choose(config: Any, dtype: torch.dtype, device: torch.device, *, int8: bool = False) -> Choice:
    """Whether the kernels can compute a Llama with this configuration of `transformers`, and which are the widest.

    With `int8` its matrices are to be rounded to 8 bits.
    """
    if device.type != "cpu" or dtype != torch.bfloat16:
        return Choice(None, None, "they are for bfloat16 on a CPU")
    kernels, reason = find()
    if kernels is None:
        return Choice(None, None, reason)
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    head_dim = int(getattr(config, "head_dim", None) or hidden // heads)
    if head_dim > MOST_HEAD_DIM:
        return Choice(None, None, f"they are for heads of at most {MOST_HEAD_DIM} numbers, not {head_dim}")
    columns = (hidden, heads * head_dim, int(config.intermediate_size))
    for kind in kernels.kinds:
        if head_dim % kind.block == 0 and all(size % (kind.block << int8) == 0 for size in columns):
            return Choice(kernels, kind, "")
    least = kernels.kinds[-1].block << int8
    return Choice(None, None, f"they are for sizes that are multiples of {least}, unlike one of {(head_dim, *columns)}")


class NativeLlama:
    """A model on the kernels. Used on the engine thread only; keeps the weights that it was given alive."""

    def __init__(
        self, weights: LlamaWeights, kernels: Kernels, kind: Kind, *, threads: int, int8: bool = False
    ) -> None:
        """With `int8` matrices are rounded to 8 bits, and the bfloat16 ones are not kept."""
        self.kind = kind
        self._kept: list[Tensor] = []  # what the structures point to
        self._vocab = weights.head[0].shape[0]
        self._int8 = int8
        layers = (Layer * len(weights.layers))(*(self._layer(layer) for layer in weights.layers))
        self._runner: Runner = kernels.open(
            Model(
                layers=len(layers),
                hidden=weights.norm.shape[0],
                heads=weights.heads,
                kv_heads=weights.kv_heads,
                head_dim=weights.head_dim,
                intermediate=weights.layers[0].down[0].shape[1],
                eps=weights.eps,
                scaling=weights.scaling,
                layer=layers,
                embed=self._keep(weights.embed),
                norm=self._keep(weights.norm.float()),
                head=self._matrix(weights.head),
                cos=self._keep(weights.cos.float()),
                sin=self._keep(weights.sin.float()),
            ),
            kind,
            threads,
        )
        self._stores: tuple[KVStore, tuple[np.ndarray, np.ndarray]] | None = None

    def forward(self, batch: RaggedBatch, store: KVStore) -> Tensor:
        """See `CausalModel.forward`: float32 [R, V]."""
        logits = np.empty((len(batch.logit_rows), self._vocab), dtype=np.float32)
        query_lens = np.array(batch.query_lens, dtype=np.int64)
        context_lens = np.array([len(slots) for slots in batch.kv_slots], dtype=np.int64)
        kv_slots = np.array([slots.ctypes.data for slots in batch.kv_slots], dtype=np.uintp)
        keys, values = self._addresses(store)
        self._runner.run(
            Batch(
                len(batch.token_ids), len(query_lens), len(batch.logit_rows),
                batch.token_ids.ctypes.data, batch.positions.ctypes.data, batch.slots.ctypes.data,
                query_lens.ctypes.data, kv_slots.ctypes.data, context_lens.ctypes.data, batch.logit_rows.ctypes.data,
                keys.ctypes.data, values.ctypes.data, logits.ctypes.data,
            )
        )  # fmt: skip
        return torch.from_numpy(logits)

    def close(self) -> None:
        """End its threads."""
        self._runner.close()

    def _addresses(self, store: KVStore) -> tuple[np.ndarray, np.ndarray]:
        """Where each layer's K and V lie. A model mostly sees one store all its life."""
        if self._stores is None or self._stores[0] is not store:
            addresses = [
                np.array([tensor.data_ptr() for tensor in tensors], dtype=np.uintp)
                for tensors in (store.keys, store.values)
            ]
            self._stores = (store, (addresses[0], addresses[1]))
        return self._stores[1]

    def _layer(self, layer: LayerWeights) -> Layer:
        return Layer(
            *(self._matrix(matrix) for matrix in _matrices(layer)),
            self._keep(layer.before_attention.float()),
            self._keep(layer.before_mlp.float()),
        )

    def _matrix(self, given: tuple[Tensor, Tensor | None]) -> Matrix:
        weight, bias = given
        rows, columns = weight.shape
        scales: int | None = None
        if self._int8:
            weight, scale = quantize(weight)
            scales = self._keep(scale)
        weights = self._keep(arranged(weight, self.kind))
        return Matrix(weights, scales, None if bias is None else self._keep(bias.float()), rows, columns)

    def _keep(self, tensor: Tensor) -> int:
        kept = tensor.detach().contiguous()
        self._kept.append(kept)
        return kept.data_ptr()


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix rounded to 8 bits, int8 [rows, columns], and its scales, float32 [rows]."""
    exact = weight.float()
    scales = (exact.abs().amax(dim=1) / LARGEST).clamp(min=1e-12)
    return (exact / scales[:, None]).round().clamp(-LARGEST, LARGEST).to(torch.int8), scales


def arranged(weight: Tensor, kind: Kind) -> Tensor:
    """A matrix [rows, columns], bfloat16 or int8, as the kernels of that kind read it."""
    int8 = weight.dtype == torch.int8
    if kind.panel:
        return byte_panels(weight, kind) if int8 else panels(weight, kind)
    return in_words(weight, kind) if int8 else weight


def in_words(weight: Tensor, kind: Kind) -> Tensor:
    """8 bits row by row: of each 4 * width columns, byte b of word i is column 2i + b % 2 of half b // 2.

    See `Packed` in vectors.h.
    """
    return weight.view(len(weight), -1, 2, kind.width, 2).transpose(2, 3).reshape(weight.shape)


def panels(weight: Tensor, kind: Kind) -> Tensor:
    """bfloat16 in panels, the last filled up with zeros: [panels, columns / 2, rows, 2]. See panels.h."""
    filled = functional.pad(weight.detach(), (0, 0, 0, -len(weight) % kind.panel))
    return filled.view(-1, kind.panel, weight.shape[1] // 2, 2).transpose(1, 2)


def byte_panels(weight: Tensor, kind: Kind) -> Tensor:
    """8 bits in panels, 128 added, the last filled up with 128: uint8 [panels, blocks, words, rows, 4].

    Of a block of columns first the even ones, then the odd ones, as its operands lie.
    """
    filled = functional.pad(weight, (0, 0, 0, -len(weight) % kind.panel))
    blocks = filled.view(-1, kind.panel, weight.shape[1] // kind.block, kind.width, 2).transpose(3, 4)
    words = blocks.reshape(-1, kind.panel, weight.shape[1] // kind.block, kind.block // 4, 4).permute(0, 2, 3, 1, 4)
    return (words.to(torch.int16) + 128).to(torch.uint8)


def _matrices(layer: LayerWeights) -> list[tuple[Tensor, Tensor | None]]:
    return [layer.qkv, layer.out, layer.gate_up, layer.down]
