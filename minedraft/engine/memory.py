"""The device's memory, and its want said in one sentence with the numbers. The CUDA part was not yet run on a GPU."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

from minedraft.errors import SetupError
from minedraft.kv.sizing import DeviceMemory, machine_memory_bytes, out_of_memory

UNITS: Final = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
# The words of torch's CUDA allocator and of its CPU allocator.
ASKED: Final = re.compile(r"[Tt]ried to allocate ([\d.]+) (bytes|KiB|MiB|GiB)")


def device_memory(device: torch.device) -> DeviceMemory:
    """What the device has and what is free. On a GPU, memory that torch only keeps in reserve is given back first."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(device)
        return DeviceMemory(total, free, torch.cuda.memory_reserved(device))
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return DeviceMemory(machine_memory_bytes(), min(free, machine_memory_bytes()))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that an allocation failed. The CPU's allocator has no error class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def describe(error: BaseException, doing: str, device: torch.device, advice: str) -> str:
    """One sentence for a failed allocation: asked, free, total, and what to lower."""
    found = ASKED.search(str(error))
    asked = int(float(found[1]) * UNITS[found[2]]) if found else None
    return out_of_memory(doing, asked, device_memory(device), advice)


@contextmanager
def telling(doing: str, device: torch.device, advice: str) -> Iterator[None]:
    """Turns a failed allocation at start-up into a SetupError."""
    try:
        yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise SetupError(describe(error, doing, device, advice)) from error
