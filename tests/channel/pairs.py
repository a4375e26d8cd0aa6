"""A connected pair of ends of each kind, in one process, for the conformance suite.

To add a kind: write a context manager `(spec, owner_sends, folder) -> (sender, receiver)` that opens both ends, yields
them, and on the way out checks its own books (leaks, broken rules), and list it in PAIRS. `owner_sends` says which end
makes the offer. `connect` does the handshake.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Final

import torch

from minedraft.channel.base import ReceiverEnd, SenderEnd
from minedraft.channel.cuda_ipc import CudaIpcReceiver, CudaIpcSender
from minedraft.channel.gloo import GlooReceiver, GlooSender
from minedraft.channel.inline import InlineReceiver, InlineSender
from minedraft.channel.nccl import NcclReceiver, NcclSender
from minedraft.channel.nccl_library import Nccl4py
from minedraft.channel.shm import ShmReceiver, ShmSender
from minedraft.types import ChannelKind, ChannelSpec
from tests.channel.fake_cuda.machine import GPU, NOTHING, OTHER_GPU, FakeMachine, HostMemory
from tests.channel.fake_nccl import FakeCore, FakeFabric, FakeStream
from tests.channel.patience import eventually

Ends = tuple[SenderEnd, ReceiverEnd]
Pair = Callable[[ChannelSpec, bool, Path], AbstractContextManager[Ends]]


def connect(sender: SenderEnd, receiver: ReceiverEnd, owner_sends: bool) -> Ends:
    """Offer, join, seal."""
    if owner_sends:
        sender.seal(receiver.join(sender.offer()))
    else:
        receiver.seal(sender.join(receiver.offer()))
    return sender, receiver


@contextmanager
def inline(spec: ChannelSpec, owner_sends: bool, folder: Path) -> Iterator[Ends]:
    receiver = InlineReceiver(spec)
    sender = InlineSender(spec, receiver.take)
    yield connect(sender, receiver, owner_sends)
    sender.close()
    receiver.close()


@contextmanager
def shm(spec: ChannelSpec, owner_sends: bool, folder: Path) -> Iterator[Ends]:
    sender, receiver = ShmSender(spec, folder), ShmReceiver(spec, folder)
    yield connect(sender, receiver, owner_sends)
    assert not list(folder.iterdir()), "the name is gone once both have mapped the file"
    sender.close()
    receiver.close()


@contextmanager
def gloo(spec: ChannelSpec, owner_sends: bool, folder: Path) -> Iterator[Ends]:
    sender, receiver = GlooSender(spec, "127.0.0.1"), GlooReceiver(spec, "127.0.0.1")
    yield connect(sender, receiver, owner_sends)
    sender.close()
    receiver.close()


@contextmanager
def cuda_ipc(spec: ChannelSpec, owner_sends: bool, folder: Path) -> Iterator[Ends]:
    """Over the fake libcuda, which takes the two ends for two processes."""
    machine = FakeMachine.start()
    try:
        drivers = machine.driver(1), machine.driver(2)
        sender = CudaIpcSender(spec, FIRST_GPU, drivers[0], HostMemory())
        receiver = CudaIpcReceiver(spec, FIRST_GPU, drivers[1], HostMemory())
        yield connect(sender, receiver, owner_sends)
        sender.close()
        receiver.close()
        assert eventually(lambda: [driver.held() for driver in drivers] == [NOTHING, NOTHING])
        assert machine.violations == []
    finally:
        machine.stop()


@contextmanager
def nccl(spec: ChannelSpec, owner_sends: bool, folder: Path) -> Iterator[Ends]:
    """Over the fake NCCL, on two GPUs."""
    fabric = FakeFabric()
    sender = NcclSender(spec, FIRST_GPU, Nccl4py(FakeCore(fabric, GPU)), FakeStream(fabric, GPU))
    receiver = NcclReceiver(spec, FIRST_GPU, Nccl4py(FakeCore(fabric, OTHER_GPU)), FakeStream(fabric, OTHER_GPU))
    yield connect(sender, receiver, owner_sends)
    sender.close()
    receiver.close()
    assert eventually(lambda: fabric.alive == 0)
    assert fabric.violations == []


FIRST_GPU: Final = torch.device("cuda", 0)
PAIRS: Final[dict[ChannelKind, Pair]] = {
    ChannelKind.INLINE: inline,
    ChannelKind.SHM: shm,
    ChannelKind.GLOO: gloo,
    ChannelKind.CUDA_IPC: cuda_ipc,
    ChannelKind.NCCL: nccl,
}
