"""Tests for a machine with a GPU. Elsewhere each is skipped, with one reason. Not yet run on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from minedraft.model.flash import FlashFunction, find_flash
from tests.gpu.far import FarProcess

HERE = Path(__file__).parent
REASON = "no CUDA device here: torch.cuda.is_available() is False"
SECONDS = 300


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.gpu)
            item.add_marker(pytest.mark.timeout(SECONDS))
            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason=REASON))


@pytest.fixture
def gpu() -> torch.device:
    return torch.device("cuda", 0)


@pytest.fixture
def other_gpu() -> torch.device:
    """A second one."""
    if torch.cuda.device_count() < 2:
        pytest.skip(f"needs two GPUs, and {torch.cuda.device_count()} is here")
    return torch.device("cuda", 1)


@pytest.fixture
def nccl(other_gpu: torch.device) -> torch.device:
    """The second GPU, where NCCL can be used."""
    if find_spec("nccl") is None:
        pytest.skip("nccl4py is not installed: pip install 'minedraft[gpu]'")
    return other_gpu


@pytest.fixture
def flash(gpu: torch.device) -> FlashFunction:
    """flash-attn's function."""
    function, reason = find_flash(gpu)
    if function is None:
        pytest.skip(f"no flash_attn: {reason}")
    return function


@pytest.fixture(scope="session")
def neighbour() -> Iterator[FarProcess]:
    """Another process for ends of many channels. Tests that kill one start their own."""
    with FarProcess() as far:
        yield far
