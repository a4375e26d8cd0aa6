"""A double of CUDA graphs for CPUs. It records the operations of a captured pass, not the Python around them, and
replays them over the tensors that they were captured with, as a graph does over addresses.

Rules enforced, from PyTorch's "CUDA semantics" (CUDA Graphs, Constraints) and NVIDIA's quick checklist for capture:
- WARM_UP: work runs on a side stream before it is captured
- NO_SYNC: no operation waits for the device, as `.item()` and shapes that depend on data do
- NO_HOST: no tensor is made from Python numbers, which would be a copy from pageable memory
- ADDRESSES: a replay finds every input where the capture found it: not freed, not moved
- ALONE: no capture or replay within a capture
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

WAITING = {
    "item", "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique", "_unique2", "bincount",
    "repeat_interleave", "allclose",
}  # fmt: skip
FROM_HOST = {"lift_fresh", "lift", "scalar_tensor"}


class RuleBroken(RuntimeError):
    """What CUDA would refuse, or quietly do wrong."""


@dataclass
class Outside:
    """A tensor from before the capture: the graph knows its address alone."""

    tensor: weakref.ref[Tensor]
    address: int

    def find(self) -> Tensor:
        tensor = self.tensor()
        if tensor is None:
            raise RuleBroken("ADDRESSES: an input of the captured pass was freed")
        if tensor.data_ptr() != self.address:
            raise RuleBroken("ADDRESSES: an input of the captured pass was moved")
        return tensor


@dataclass(frozen=True)
class Inside:
    """A result of the captured pass, by number."""

    number: int


@dataclass
class Operation:
    function: Callable[..., Any]
    arguments: tuple[Any, Mapping[str, Any]]  # tensors in it are Outside or Inside
    results: dict[int, Tensor | None]  # by number: the memory of a result; None for a view, which has none of its own
    changes_in_place: bool


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own __init_subclass__
    """Sees every operation of the captured pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self._numbers: dict[int, int] = {}
        self._alive: list[Tensor] = []  # as long as it records, so that no id is used twice

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in WAITING or (name == "index" and self._indexed_by_mask(args)):
            raise RuleBroken(f"NO_SYNC: {name} waits for the device")
        if name in FROM_HOST:
            raise RuleBroken(f"NO_HOST: {name} copies from pageable memory")
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        known = tree_map(self._remember, (args, kwargs or {}))
        results = {
            self._number(leaf): None if _shares_memory(leaf, given) else leaf
            for leaf in tree_leaves(result)
            if isinstance(leaf, Tensor) and not any(leaf is other for other in given)
        }
        self.operations.append(Operation(func, known, results, func._schema.is_mutable))
        return result

    def _remember(self, leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        number = self._numbers.get(id(leaf))
        return Outside(weakref.ref(leaf), leaf.data_ptr()) if number is None else Inside(number)

    def _number(self, tensor: Tensor) -> int:
        self._alive.append(tensor)
        return self._numbers.setdefault(id(tensor), len(self._alive))

    @staticmethod
    def _indexed_by_mask(args: Any) -> bool:
        return any(isinstance(leaf, Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(args[1:]))


def _shares_memory(tensor: Tensor, others: Sequence[Tensor]) -> bool:
    address = tensor.untyped_storage().data_ptr()
    return any(other.untyped_storage().data_ptr() == address for other in others)


class GraphDouble:
    """Operations over fixed tensors."""

    def __init__(self, device: GraphDeviceDouble, operations: Sequence[Operation]) -> None:
        self._device = device
        self._operations = operations
        self.replays = 0

    @torch.inference_mode()
    def replay(self) -> None:
        if self._device.capturing:
            raise RuleBroken("ALONE: a graph was replayed during a capture")
        self.replays += 1
        results: dict[int, Tensor] = {}

        def find(leaf: Any) -> Any:
            if isinstance(leaf, Outside):
                return leaf.find()
            return results[leaf.number] if isinstance(leaf, Inside) else leaf

        for operation in self._operations:
            arguments, options = tree_map(
                find, operation.arguments, is_leaf=lambda leaf: isinstance(leaf, Outside | Inside)
            )
            anew = [leaf for leaf in tree_leaves(operation.function(*arguments, **options)) if isinstance(leaf, Tensor)]
            if operation.changes_in_place and not operation.results:
                continue
            for (number, memory), result in zip(operation.results.items(), anew, strict=True):
                results[number] = result if memory is None else memory.copy_(result)


class GraphDeviceDouble:
    """A `GraphDevice` on the CPU."""

    def __init__(self) -> None:
        self.capturing = False
        self.graphs: list[GraphDouble] = []
        self._warm: set[Callable[[], Tensor]] = set()

    @property
    def replays(self) -> int:
        return sum(graph.replays for graph in self.graphs)

    def pinned(self, nbytes: int) -> Tensor:
        if self.capturing:
            raise RuleBroken("NO_SYNC: page-locked memory was allocated during a capture")
        return torch.zeros(nbytes, dtype=torch.uint8)

    def warm_up(self, work: Callable[[], Tensor]) -> None:
        work()
        self._warm.add(work)

    def capture(self, work: Callable[[], Tensor]) -> tuple[GraphDouble, Tensor]:
        if self.capturing:
            raise RuleBroken("ALONE: a capture within a capture")
        if work not in self._warm:
            raise RuleBroken("WARM_UP: the work was captured cold")
        self.capturing = True
        try:
            with Recorder() as recorder:
                result = work()
        finally:
            self.capturing = False
        graph = GraphDouble(self, recorder.operations)
        self.graphs.append(graph)
        # The result of a capture is memory without content: only a replay writes it.
        with torch.inference_mode():
            result.fill_(torch.nan)
        return graph, result

    def synchronize(self) -> None:
        if self.capturing:
            raise RuleBroken("NO_SYNC: the host waited during a capture")
