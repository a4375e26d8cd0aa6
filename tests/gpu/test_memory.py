"""The KV cache sized from a real GPU's free memory, and what is said when memory does not suffice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from minedraft.config import VerifierSettings
from minedraft.engine import memory
from minedraft.engine.build import Built, Part, build_engine
from minedraft.errors import SetupError
from minedraft.kv.sizing import GIB, MIB, bytes_per_block
from tests.models import tiny_llama
from tests.unit.engine.helpers import feed, item

FRACTION = 0.2
LAYERS, HIDDEN, HEADS, KV_HEADS = 4, 512, 8, 8  # large enough that the cache is more than the passes' reserve


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "target"
    return tiny_llama(path, layers=LAYERS, hidden=HIDDEN, heads=HEADS, kv_heads=KV_HEADS, dtype="float16")


def built(folder: Path, **settings: Any) -> Built:
    return build_engine(VerifierSettings(model=str(folder), device="cuda", attention="sdpa", **settings), Part.TARGET)


def test_the_cache_takes_its_fraction_of_the_gpu_and_no_more(folder: Path, gpu: torch.device) -> None:
    before = memory.device_memory(gpu)
    made = built(folder, memory_fraction=FRACTION)
    info = made.engine.info
    after = memory.device_memory(gpu)
    assert info.num_blocks >= 1
    assert after.own <= before.total * FRACTION
    block = bytes_per_block(LAYERS, KV_HEADS, HIDDEN // HEADS, 2, info.block_size)
    assert after.own - before.own >= info.num_blocks * block * 0.9  # it is really there
    assert feed(made.engine, item(1, 0, range(4, 60))).isfinite().all()
    made.close()


def test_a_cache_that_does_not_fit_is_told_with_the_numbers(folder: Path, gpu: torch.device) -> None:
    too_much = memory.device_memory(gpu).total // MIB * 2
    with pytest.raises(SetupError, match=r"does not fit on the GPU: --kv-cache-mib \d+ .* GiB, .* are free"):
        built(folder, kv_cache_mib=too_much)


def test_a_failed_allocation_is_told_with_the_numbers(gpu: torch.device) -> None:
    found = memory.device_memory(gpu)
    words = rf"out of memory while trying: [\d.]+ GiB more was asked for, and [\d.]+ of {found.total / GIB:.2f} GiB"
    with pytest.raises(SetupError, match=words), memory.telling("trying", gpu, "ask for less"):
        torch.empty(2 * found.total, dtype=torch.uint8, device=gpu)
    assert float(torch.ones(10, device=gpu).sum()) == 10.0
