"""Index arrays on their way to a device whose copies are late."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from minedraft.model.staging import RING, SMALLEST, Stager

ARRAYS: tuple[np.ndarray, ...] = (
    np.arange(7),
    np.arange(5, dtype=np.int32),
    np.arange(6, dtype=np.int32).reshape(2, 3)[:, ::-1],
    np.arange(0),
)


class LateCopy:
    """A queued copy: it reads the host buffer only when it is waited for, or when the device is made to catch up."""

    def __init__(self, host: Tensor) -> None:
        self.host, self.there, self.done = host, torch.zeros_like(host), False

    def synchronize(self) -> None:
        if not self.done:
            self.there.copy_(self.host)
            self.done = True


class LateDevice:
    def __init__(self) -> None:
        self.buffers: list[Tensor] = []
        self.copies: list[LateCopy] = []

    def pinned(self, nbytes: int) -> Tensor:
        self.buffers.append(torch.zeros(nbytes, dtype=torch.uint8))
        return self.buffers[-1]

    def copy(self, host: Tensor) -> tuple[Tensor, LateCopy]:
        self.copies.append(LateCopy(host))
        return self.copies[-1].there, self.copies[-1]

    def catch_up(self) -> None:
        for copy in self.copies:
            copy.synchronize()


def test_on_a_cpu_nothing_is_copied() -> None:
    array = np.arange(4)
    (tensor,) = Stager(torch.device("cpu")).send(array)
    array[2] = 9
    assert tensor.tolist() == [0, 1, 9, 3]


def test_one_copy_carries_all_arrays() -> None:
    device = LateDevice()
    sent = Stager(torch.device("cpu"), device).send(*ARRAYS)
    device.catch_up()
    assert len(device.copies) == 1
    for array, tensor in zip(ARRAYS, sent, strict=True):
        assert (tensor.numpy() == array).all()
        assert tensor.shape == array.shape
        assert tensor.dtype == {8: torch.int64, 4: torch.int32}[array.itemsize]
        assert tensor.data_ptr() % array.itemsize == 0
        assert tensor.is_contiguous()


@pytest.mark.parametrize("late", [True, False])
def test_no_buffer_is_written_while_a_copy_reads_it(late: bool) -> None:
    device = LateDevice()
    stager = Stager(torch.device("cpu"), device)
    sent = []
    for number in range(3 * RING):
        sent.append(stager.send(np.full(10, number), np.full(3, -number, dtype=np.int32)))
        if not late:
            device.catch_up()
    device.catch_up()
    assert len(device.buffers) == RING
    for number, (longs, ints) in enumerate(sent):
        assert longs.tolist() == [number] * 10
        assert ints.tolist() == [-number] * 3


def test_buffers_grow() -> None:
    device = LateDevice()
    stager = Stager(torch.device("cpu"), device)
    for _ in range(RING + 1):
        (tensor,) = stager.send(np.arange(SMALLEST))  # eight times the smallest buffer
    device.catch_up()
    assert tensor.tolist() == list(range(SMALLEST))
    stager.send(np.arange(SMALLEST))
    assert len(device.buffers) <= 2 * RING
