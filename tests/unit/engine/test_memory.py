"""Want of memory in one sentence: at start-up, and in a pass."""

from __future__ import annotations

import pytest
import torch

from minedraft.engine import memory
from minedraft.engine.runner import Engine
from minedraft.errors import InternalError, NoSpace, SetupError
from minedraft.kv.sizing import GIB, DeviceMemory
from minedraft.kv.store import KVStore
from minedraft.model.hf import HFModel
from minedraft.model.ragged import RaggedBatch
from tests.models import tiny_model
from tests.unit.engine.helpers import begun, engine, feed, item

CPU = torch.device("cpu")
# As torch's allocators word it.
CUDA_WORDS = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.20 GiB is "
    "free. Including non-PyTorch memory, this process has 77.90 GiB memory in use."
)
CPU_WORDS = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "3221225472 bytes. Error code 12 (Cannot allocate memory)"
)


@pytest.fixture(autouse=True)
def _memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "device_memory", lambda device: DeviceMemory(80 * GIB, GIB))


@pytest.mark.parametrize(
    ("error", "asked"), [(torch.OutOfMemoryError(CUDA_WORDS), "2.50"), (RuntimeError(CPU_WORDS), "3.00")]
)
def test_at_start_up(error: RuntimeError, asked: str) -> None:
    sentence = (
        f"out of memory while allocating the KV cache: {asked} GiB more was asked for, and 1.00 of 80.00 GiB are free: "
        "lower something"
    )
    with (
        pytest.raises(SetupError, match=f"^{sentence}$"),
        memory.telling("allocating the KV cache", CPU, "lower something"),
    ):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match=r"^shapes do not fit$"), memory.telling("loading", CPU, "lower something"):
        raise RuntimeError("shapes do not fit")


class Full(HFModel):
    """Runs out of memory in its passes while `full`."""

    full: RuntimeError | None = None

    def forward(self, batch: RaggedBatch, store: KVStore) -> torch.Tensor:
        if self.full is not None:
            raise self.full
        return super().forward(batch, store)


def full_engine() -> tuple[Full, Engine]:
    model = Full(tiny_model(max_len=64).module, model_id="full")
    return model, engine(model)


def test_in_a_pass() -> None:
    model, on = full_engine()
    first = feed(on, item(1, 0, (5, 6, 7)))
    model.full = torch.OutOfMemoryError(CUDA_WORDS)
    with pytest.raises(NoSpace, match=r"while computing a pass: 2.50 GiB more was asked for.*--prefill-chunk"):
        feed(on, item(1, 3, (8, 9)))
    on.check_integrity()
    model.full = None
    assert begun(on, item(1, 3, (8,))).cached_len == 3  # nothing was lost
    on.release_lease("lease")
    torch.testing.assert_close(feed(on, item(1, 0, (5, 6, 7))), first)


def test_other_failures_of_a_pass() -> None:
    model, on = full_engine()
    model.full = RuntimeError("a fault")
    with pytest.raises(InternalError, match="the forward pass failed: a fault"):
        feed(on, item(1, 0, (5, 6, 7)))


def test_the_machine_has_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    found = memory.device_memory(CPU)
    assert 0 < found.free <= found.total


def test_a_gpu_is_asked_after_torch_gave_back_what_it_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    calls: list[str] = []

    def noted(name: str, result: object) -> object:
        calls.append(name)
        return result

    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("empty"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: noted("info", (3, 9)))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: noted("own", 5))
    assert memory.device_memory(torch.device("cuda")) == DeviceMemory(total=9, free=3, own=5)
    assert calls == ["empty", "info", "own"]
