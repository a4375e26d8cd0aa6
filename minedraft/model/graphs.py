"""CUDA graphs for one-token passes: what a draft model does K - 1 times a step, launched as one. Not yet run on a GPU.

A small model's decode pass is hundreds of launches of a few microseconds each. Captured once for a number of sequences,
it is replayed by one launch over inputs that were copied to where the capture found them. Batches are padded up to the
next captured size; padding rows are real one-token sequences whose K and V go to a spare block that no sequence owns.

The rules of capture that shape this file (PyTorch, "CUDA semantics", CUDA Graphs, Constraints; NVIDIA, "CUDA Graph best
practice for PyTorch"):
- work runs on a side stream first, so that nothing is set up during capture, and is captured on that same stream;
- a captured pass never waits for the device, and never copies from host memory: both happen before the replay;
- a replay reads and writes the addresses of the capture: inputs, weights and the KV store must stay where they are;
- shapes, control flow and numbers of the host are frozen, `max_seqlen_k` among them: it is the longest context;
- graphs that share a memory pool never run at once, and no replay reads what an earlier one left in the pool: logits
  are copied out before the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from minedraft.errors import MinedraftError, SetupError
from minedraft.kv.store import KVStore
from minedraft.model.attention import AttentionBackend, AttentionPlan
from minedraft.model.flash import FlashBackend, fill_block_table
from minedraft.model.ragged import RaggedBatch

SIZES: Final = (1, 2, 4, 8, 16, 32, 64, 128)  # sequences in a pass; larger ones are computed anew
WARM_UPS: Final = 3  # as in PyTorch's own examples


class Graph(Protocol):
    """Captured work. `torch.cuda.CUDAGraph` is one."""

    def replay(self) -> None:
        """Queue the work again, over the same addresses."""


class GraphDevice(Protocol):
    """What graphs ask of an accelerator."""

    def pinned(self, nbytes: int) -> Tensor:
        """Page-locked host memory: uint8 [nbytes]."""

    def warm_up(self, work: Callable[[], Tensor]) -> None:
        """Run the work on the stream that captures; done when this returns."""

    def capture(self, work: Callable[[], Tensor]) -> tuple[Graph, Tensor]:
        """The graph of the work, and its result, which every replay writes anew."""

    def synchronize(self) -> None:
        """Return once all queued work is done."""


class CudaGraphs:
    """A `GraphDevice` over `torch.cuda`. All captures share one side stream and one memory pool."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        stream: Any = torch.cuda.Stream  # untyped
        self._stream = stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def pinned(self, nbytes: int) -> Tensor:
        """See `GraphDevice.pinned`."""
        return torch.zeros(nbytes, dtype=torch.uint8, pin_memory=True)

    def warm_up(self, work: Callable[[], Tensor]) -> None:
        """See `GraphDevice.warm_up`."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                work()
        current.wait_stream(self._stream)
        self._stream.synchronize()

    def capture(self, work: Callable[[], Tensor]) -> tuple[Graph, Tensor]:
        """See `GraphDevice.capture`."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = work()
        return graph, result

    def synchronize(self) -> None:
        """See `GraphDevice.synchronize`."""
        torch.cuda.current_stream(self._device).synchronize()


class Decoder(Protocol):
    """What graphs ask of a model. `HFModel` is one."""

    @property
    def architecture(self) -> str: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def backend(self) -> AttentionBackend: ...

    def compute(
        self, token_ids: Tensor, positions: Tensor, slots: Tensor, rows: Tensor, plan: AttentionPlan, store: KVStore
    ) -> Tensor: ...


class DecodeGraphs:
    """The decode passes of one model over one store. Used on the engine thread only.

    The store must have a spare block. `max_len` bounds the contexts, tokens. Raises SetupError when the backend cannot
    be captured, or the model's pass cannot.
    """

    def __init__(
        self, model: Decoder, store: KVStore, *, max_len: int, device: GraphDevice, sizes: Sequence[int] = SIZES
    ) -> None:
        if not isinstance(model.backend, FlashBackend):
            raise SetupError(
                f"--cuda-graphs needs flash_attn, whose lengths and block tables are tensors; {model.backend.name} "
                "gathers a context of another shape in every pass, which no graph can replay"
            )
        self._model, self._backend, self._store, self._device = model, model.backend, store, device
        self._spare_slot = store.spare_slot
        self._width = -(-max_len // store.block_size)
        # A batch has no more sequences than blocks. The largest comes first: the others find its memory in the pool.
        useful = [size for size in sorted(sizes) if size < 2 * store.num_blocks]
        self._graphs = {size: self._capture(size) for size in reversed(useful)}
        self._sizes = useful

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of sequences that were captured, rising."""
        return tuple(self._sizes)

    def forward(self, batch: RaggedBatch, store: KVStore) -> Tensor | None:
        """The logits of `HFModel.forward`, [B, V]; None for a pass that is not one token and one row a sequence."""
        count = len(batch.query_lens)
        if count > self._sizes[-1] or not len(batch.token_ids) == len(batch.logit_rows) == count:
            return None
        if store is not self._store:
            return None
        size = next(size for size in self._sizes if size >= count)
        graph, inputs, logits = self._graphs[size]
        inputs.fill(batch)
        inputs.upload()
        graph.replay()
        wanted = logits[:count].clone()  # the next replay, of whatever size, may overwrite the graph's own
        self._device.synchronize()  # and so the host buffer may be written again
        return wanted

    def _capture(self, size: int) -> tuple[Graph, _Inputs, Tensor]:
        inputs = _Inputs(size, self._width, self._spare_slot, self._store.block_size, self._model.device, self._device)
        inputs.upload()
        plan = self._backend.fixed_plan(
            inputs.query_offsets,
            inputs.context_offsets,
            inputs.table,
            max_queries=1,
            max_context=self._width * self._store.block_size,
        )

        @torch.inference_mode()
        def work() -> Tensor:
            return self._model.compute(inputs.token_ids, inputs.positions, inputs.slots, inputs.rows, plan, self._store)

        self._device.synchronize()
        try:
            self._device.warm_up(work)
            graph, logits = self._device.capture(work)
        except (MinedraftError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # CUDA's words differ with the rule that was broken
            raise SetupError(
                f"--cuda-graphs: a decode pass of architecture {self._model.architecture} cannot be captured "
                f"({' '.join(str(error).split())[:200]}); leave the flag out"
            ) from error
        return graph, inputs, logits


class _Inputs:
    """What one graph reads: one buffer on the device, its twin in page-locked memory, and views of both by name."""

    def __init__(
        self, size: int, width: int, spare_slot: int, block_size: int, place: torch.device, device: GraphDevice
    ) -> None:
        longs, ints = 3 * size * 8, (size + 1) * 4
        nbytes = longs + ints + size * width * 4
        self._host, self._there = device.pinned(nbytes), torch.zeros(nbytes, dtype=torch.uint8, device=place)
        flat = self._host.numpy()
        self._longs = flat[:longs].view(np.int64).reshape(3, size)
        self._contexts = flat[longs : longs + ints].view(np.int32)
        self._table = flat[longs + ints :].view(np.int32).reshape(size, width)
        self.token_ids, self.positions, self.slots = self._there[:longs].view(torch.int64).view(3, size).unbind()
        self.context_offsets = self._there[longs : longs + ints].view(torch.int32)
        self.table = self._there[longs + ints :].view(torch.int32).view(size, width)
        self.query_offsets = torch.arange(size + 1, dtype=torch.int32, device=place)
        self.rows = torch.arange(size, device=place)
        self._spare_slot, self._block_size = spare_slot, block_size
        self._pad(0)

    def fill(self, batch: RaggedBatch) -> None:
        """Write the batch to the host's buffer, padding rows after it."""
        count = len(batch.query_lens)
        self._pad(count)
        self._longs[:, :count] = batch.token_ids, batch.positions, batch.slots
        lens = self._contexts[1:]
        lens[:count] = [len(slots) for slots in batch.kv_slots]
        np.cumsum(lens, out=lens)
        fill_block_table(self._table, batch.kv_slots, self._block_size)

    def upload(self) -> None:
        """Queue the copy to the device, ahead of the replay on the same stream."""
        self._there.copy_(self._host, non_blocking=True)

    def _pad(self, count: int) -> None:
        """Rows from `count` on become sequences of one token, the first of the vocabulary, in the spare block."""
        self._longs[:2, count:] = 0
        self._longs[2, count:] = self._spare_slot
        self._contexts[0] = 0
        self._contexts[1:] = 1
        self._table[count:] = self._spare_slot // self._block_size
        if count == 0:
            np.cumsum(self._contexts[1:], out=self._contexts[1:])
