"""A model whose weights and KV heads are split over several ranks, each a process with a device of its own.

`transformers` splits the layers by its tensor-parallel plans: each rank has some of the heads and some of the MLP, and
sums what the ranks computed after either. Every rank runs every pass; rank 0 serves, and tells the others each pass
before it runs it (`minedraft.model.orders`). The output layer is gathered: all ranks have whole logits, rank 0's are
used. Plans: `transformers/distributed/tensor_parallel.py`; the idea: Shoeybi et al. 2019, arXiv 1909.08053.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, Protocol

import numpy as np
from torch import Tensor

from minedraft.errors import ProtocolError, SetupError
from minedraft.kv.sizing import DeviceMemory
from minedraft.kv.store import KVStore
from minedraft.model import backends, process_group
from minedraft.model.architectures import SHARDED
from minedraft.model.attention import AttentionBackend
from minedraft.model.backends import Shape
from minedraft.model.hf import HFModel
from minedraft.model.orders import Order, Pass, StockPass, TellMemory, UseBackend, UseStore
from minedraft.model.ragged import RaggedBatch

if TYPE_CHECKING:  # importing transformers takes seconds, which a simulated model need not wait for
    from transformers import PreTrainedModel

FLAG: Final = "--tensor-parallel"


class Peers(Protocol):
    """The other ranks, as rank 0 sees them."""

    def tell(self, order: Order) -> None:
        """Send the order to every one of them. Does not return when that is not possible."""

    def fail(self, reason: str) -> NoReturn:
        """End this process: the group is broken, and only a fresh one can serve."""

    def close(self) -> None:
        """Let them end."""


def kv_heads_of_a_rank(config: Any, ranks: int) -> int:
    """KV heads that each of `ranks` ranks holds. Raises SetupError when the model cannot be split so."""
    plan: dict[str, str] = getattr(config, "base_model_tp_plan", None) or {}
    if config.model_type not in SHARDED or not plan:
        raise SetupError(
            f"{FLAG} {ranks}: architecture {config.model_type} cannot be split over ranks: leave the flag out, or use "
            f"a model of one of {', '.join(sorted(SHARDED))}"
        )
    heads = int(config.num_attention_heads)
    kv_heads = int(getattr(config, "num_key_value_heads", None) or heads)
    from transformers.distributed.tensor_parallel import get_kv_heads_per_rank

    own: Any = get_kv_heads_per_rank(plan, kv_heads, ranks)
    if own is None:
        counts = [str(count) for count in range(2, kv_heads + 1) if kv_heads % count == 0]
        raise SetupError(
            f"{FLAG} {ranks}: the model's {kv_heads} KV heads cannot be split evenly over {ranks} ranks: "
            + (f"give {' or '.join(counts)}, or leave the flag out" if counts else "leave the flag out")
        )
    return int(own)


class ShardModel(HFModel):
    """One rank's part of a model. `kv_heads` is the number that this rank holds."""

    def __init__(self, module: PreTrainedModel, *, ranks: int, **about: Any) -> None:
        super().__init__(module, **about)
        self.ranks = ranks
        self.kv_heads = kv_heads_of_a_rank(module.config, ranks)

    def new_store(self, num_blocks: int, block_size: int) -> KVStore:
        """An empty store for this rank's heads."""
        return KVStore(
            self.num_layers,
            self.kv_heads,
            self.head_dim,
            num_blocks=num_blocks,
            block_size=block_size,
            dtype=self.dtype,
            device=self.device,
        )

    def agree(self) -> None:
        """Wait until every rank has come here."""
        process_group.smallest([0], self.device)

    def least_memory(self, own: DeviceMemory) -> DeviceMemory:
        """The worst of what the ranks have, each figure by itself. Every rank calls it with its own."""
        total, free, negative = process_group.smallest([own.total, own.free, -own.own], self.device)
        return DeviceMemory(total, free, -negative)


class FollowerModel(ShardModel):
    """The part of a rank other than 0, with its store: it does what it is told, as rank 0 does the same."""

    _store: KVStore | None = None

    def obey(self, order: Order, memory: Callable[[], DeviceMemory]) -> None:
        """Do this rank's part. `memory` tells what the device has now. Raises what the work raises."""
        match order:
            case Pass(batch):
                if self._store is None:
                    raise ProtocolError("a pass was ordered before there was a KV store")
                self.forward(batch, self._store)
            case StockPass(token_ids):
                self.stock_logits(token_ids.tolist())
            case UseStore(num_blocks, block_size):
                self._store = None  # so that the two are never in memory at once
                self._store = self.new_store(num_blocks, block_size)
                self.agree()
            case UseBackend(flash, block_size):
                wanted = backends.FLASH if flash else backends.SDPA
                self.use_backend(backends.choose(wanted, self._shape(), block_size).backend)
            case TellMemory():
                self.least_memory(memory())

    def _shape(self) -> Shape:
        return Shape(self.dtype, self.head_dim, self.device)


class ParallelModel(ShardModel):
    """The whole model, on rank 0: a `CausalModel` that leads the other ranks. Used on the engine thread only.

    A pass that fails on any rank leaves the ranks out of step, which cannot be mended: it ends the process, so that
    whoever watches it starts a fresh group.
    """

    def __init__(self, module: PreTrainedModel, *, ranks: int, peers: Peers, **about: Any) -> None:
        self._peers = peers
        self._store: KVStore | None = None
        super().__init__(module, ranks=ranks, **about)

    def forward(self, batch: RaggedBatch, store: KVStore) -> Tensor:
        """See `CausalModel.forward`. Does not return when a rank fails or is late."""
        if store is not self._store:
            self.use_store(store)
        with self._leading(Pass(batch)):
            return super().forward(batch, store)

    def stock_logits(self, token_ids: Sequence[int]) -> Tensor:
        """See `HFModel.stock_logits`."""
        with self._leading(StockPass(np.array(token_ids, dtype=np.int64))):
            return super().stock_logits(token_ids)

    def use_store(self, store: KVStore) -> None:
        """Let the other ranks have a store of the same size, in the place of the one before."""
        with self._leading(UseStore(store.num_blocks, store.block_size)):
            self.agree()
        self._store = store

    def use_backend(self, backend: AttentionBackend) -> None:
        """See `HFModel.use_backend`; on all ranks."""
        is_flash = backend.name == backends.FLASH
        with self._leading(UseBackend(is_flash, backend.block_size if is_flash else 0)):
            super().use_backend(backend)

    def worst_memory(self, own: DeviceMemory) -> DeviceMemory:
        """What the rank with the least memory has, when this one has `own`."""
        with self._leading(TellMemory()):
            return self.least_memory(own)

    def close(self) -> None:
        """Let the other ranks end, and leave the group. No pass can follow."""
        self._peers.close()
        process_group.leave()

    @contextmanager
    def _leading(self, order: Order) -> Iterator[None]:
        """Do what the others are told to. Work that fails ends the process."""
        self._peers.tell(order)
        try:
            yield
        except SetupError:
            raise  # the others raise the same, and end: only starting up finds a model that it cannot serve
        except Exception as error:
            self._peers.fail(f"rank 0 failed: {' '.join(str(error).split()) or type(error).__name__}")
