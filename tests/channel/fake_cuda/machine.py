"""A host with GPUs that are none: builds the fake libcuda, and gives each process its own driver on it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from ctypes import CDLL, byref, c_char_p, c_int, c_uint64, create_string_buffer
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import numpy as np
import pytest
import torch
from torch import Tensor

from minedraft.channel.cuda_driver import CudaDriver
from minedraft.channel.device_memory import DeviceSpan

SOURCE: Final = Path(__file__).with_name("libcuda.c")
GPU: Final = "6a1f7c0e-5f0a-4d0c-9d2e-000000000001"
OTHER_GPU: Final = "6a1f7c0e-5f0a-4d0c-9d2e-000000000002"
MEMORY: Final = 1 << 28  # bytes that an allocation may have


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds of the driver."""

    allocated: int
    opened: int
    retained: int  # primary contexts


NOTHING: Final = Held(0, 0, 0)


@cache
def built_library() -> bytes:
    """The compiled fake, or a skip where there is no C compiler."""
    compiler = next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc, clang) to build the fake libcuda with")
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "libcuda.so")
        command = [compiler, "-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
        subprocess.run([*command, "-o", str(target), str(SOURCE), "-lpthread"], check=True, timeout=60)
        return target.read_bytes()


class FakeMachine:
    """A folder in shared memory that fake processes share. It may be sent to a real process of its own, by its path."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def start(cls) -> FakeMachine:
        library = built_library()
        machine = cls(Path(tempfile.mkdtemp(prefix="minedraft-fake-cuda-", dir="/dev/shm")))
        (machine.folder / "libcuda.so").write_bytes(library)
        return machine

    def driver(self, process: int, gpus: Sequence[str] = (GPU,), memory: int = MEMORY) -> FakeDriver:
        """The driver as the process of this number sees it. Each number may come once."""
        own = self.folder / f"libcuda-{process}.so"  # dlopen gives each file its own variables
        shutil.copy(self.folder / "libcuda.so", own)
        fake = CDLL(str(own))
        uuids = create_string_buffer(b"".join(UUID(gpu).bytes for gpu in gpus))
        fake.fake_configure.argtypes = (c_char_p, c_int, c_int, c_char_p, c_uint64)
        assert fake.fake_configure(str(self.folder).encode(), process, len(gpus), uuids.raw, memory) == 0
        return FakeDriver(str(own), process, fake)

    @property
    def violations(self) -> list[str]:
        path = self.folder / "violations"
        return path.read_text("ascii").splitlines() if path.exists() else []

    @property
    def allocations(self) -> list[str]:
        """What is allocated by whichever process."""
        return sorted(path.name for path in self.folder.glob("memory-*"))

    def stop(self) -> None:
        shutil.rmtree(self.folder)


class FakeDriver(CudaDriver):
    """The real binding on the fake library."""

    def __init__(self, library: str, process: int, fake: CDLL) -> None:
        super().__init__(library)
        self.library = library
        self._process = process
        self._fake = fake

    @property
    def process_id(self) -> int:
        return self._process

    def held(self) -> Held:
        allocated, opened, retained = c_int(), c_int(), c_int()
        self._fake.fake_held(byref(allocated), byref(opened), byref(retained))
        return Held(allocated.value, opened.value, retained.value)


class HostMemory:
    """The CPU twin of CudaMemory: "device" addresses are addresses of this process."""

    def wrap(self, span: DeviceSpan, ordinal: int) -> Tensor:
        return torch.from_numpy(np.asarray(_HostArray(span)))

    def synchronise(self, ordinal: int) -> None:
        """All work is done when its call returns."""


class _HostArray:
    """A span as numpy's array interface describes memory, which the array's owner keeps alive like torch's does."""

    def __init__(self, span: DeviceSpan) -> None:
        self.span = span

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {"shape": (self.span.nbytes,), "typestr": "|u1", "data": (self.span.address, False), "version": 3}
