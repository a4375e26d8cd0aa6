"""Where a service runs: the facts that the choice of a channel depends on, and the making of ends there.

Each kind is imported when one is made: what a service does not use it does not load.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import torch

from minedraft.channel.base import ReceiverEnd, SenderEnd
from minedraft.channel.inline import InlineReceiver, InlineSender
from minedraft.errors import ChannelError
from minedraft.types import ChannelKind, ChannelSpec, HostFacts, PayloadChunk

BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
PID_NAMESPACE: Final = Path("/proc/self/ns/pid")


@dataclass(frozen=True, slots=True)
class Place:
    """What an end needs to know of its own process."""

    directory: Path  # for shared memory
    host: str  # the address that peers on other hosts reach this one by
    device: torch.device  # that the model runs on
    most_bytes: int = 4096 << 20  # of one channel


def host_facts(place: Place) -> HostFacts:
    """What is true of this process, for the choice of a channel."""
    on_gpu = place.device.type == "cuda"
    return HostFacts(
        boot_id=_read(BOOT_ID),
        pid_namespace=_inode(PID_NAMESPACE),
        shm_device=_file_system(place.directory),
        gpu_uuid=str(torch.cuda.get_device_properties(place.device).uuid) if on_gpu else "",
        driver_version=_driver_version() if on_gpu else "",
        kinds=tuple(kind for kind in ChannelKind if can_open(kind, place)),
    )


def can_open(kind: ChannelKind, place: Place) -> bool:
    """Whether this process has what the kind needs on its own side."""
    on_gpu = place.device.type == "cuda"
    match kind:
        case ChannelKind.INLINE:
            return True
        case ChannelKind.SHM:
            return os.access(place.directory, os.W_OK | os.X_OK)
        case ChannelKind.GLOO:
            return torch.distributed.is_available() and torch.distributed.is_gloo_available()
        case ChannelKind.CUDA_IPC:
            return on_gpu
        case ChannelKind.NCCL:
            return on_gpu and find_spec("nccl") is not None


def make_sender(spec: ChannelSpec, place: Place, send: Callable[[PayloadChunk], None]) -> SenderEnd:
    """A sender of the spec's kind, not yet open. Raises ChannelError when this process cannot have one."""
    _check(spec, place)
    match spec.kind:
        case ChannelKind.INLINE:
            return InlineSender(spec, send)
        case ChannelKind.SHM:
            from minedraft.channel.shm import ShmSender

            return ShmSender(spec, place.directory)
        case ChannelKind.GLOO:
            from minedraft.channel.gloo import GlooSender

            return GlooSender(spec, place.host)
        case ChannelKind.CUDA_IPC:
            from minedraft.channel.cuda_ipc import CudaIpcSender

            return CudaIpcSender(spec, place.device)
        case ChannelKind.NCCL:
            from minedraft.channel.nccl import NcclSender

            return NcclSender(spec, place.device)


def make_receiver(spec: ChannelSpec, place: Place) -> ReceiverEnd:
    """A receiver of the spec's kind, not yet open. Raises ChannelError when this process cannot have one."""
    _check(spec, place)
    match spec.kind:
        case ChannelKind.INLINE:
            return InlineReceiver(spec)
        case ChannelKind.SHM:
            from minedraft.channel.shm import ShmReceiver

            return ShmReceiver(spec, place.directory)
        case ChannelKind.GLOO:
            from minedraft.channel.gloo import GlooReceiver

            return GlooReceiver(spec, place.host)
        case ChannelKind.CUDA_IPC:
            from minedraft.channel.cuda_ipc import CudaIpcReceiver

            return CudaIpcReceiver(spec, place.device)
        case ChannelKind.NCCL:
            from minedraft.channel.nccl import NcclReceiver

            return NcclReceiver(spec, place.device)


def _check(spec: ChannelSpec, place: Place) -> None:
    if not can_open(spec.kind, place):
        raise ChannelError(f"a {spec.kind.value} channel cannot be opened here, on {place.device}")
    if spec.slots * spec.slot_bytes > place.most_bytes:
        raise ChannelError(
            f"a channel of {spec.slots} slots of {spec.slot_bytes} bytes is larger than {place.most_bytes >> 20} MiB: "
            "raise --max-channel-mib here, or lower --channel-mib of the coordinator"
        )


def _driver_version() -> str:
    from minedraft.channel.cuda_driver import driver_version

    return driver_version()


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _inode(path: Path) -> str:
    try:
        return str(path.stat().st_ino)
    except OSError:
        return ""


def _file_system(directory: Path) -> str:
    """Device and inode: two folders of one file system are not one folder."""
    try:
        found = directory.stat()
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}"
