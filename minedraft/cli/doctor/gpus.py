"""The GPUs as torch and the driver see them. Run in a process of its own: see `minedraft.cli.doctor.helper`.

Not yet run on a GPU.
"""

from __future__ import annotations

import re
from itertools import permutations
from pathlib import Path
from typing import Final

import torch

from minedraft.channel.cuda_driver import driver_version
from minedraft.cli.doctor.finding import Finding, Scope, broken, not_here, ok, one_line
from minedraft.errors import ChannelError, SetupError
from minedraft.model.loader import choose_device

GIB: Final = 1 << 30
DRIVER: Final = Path("/proc/driver/nvidia/version")
VERSION: Final = re.compile(r"Kernel Module(?: for \S+)?\s+(\d+(?:\.\d+)+)")  # proprietary and open modules
NEEDS: Final = "cuda_ipc, nccl and flash_attn need one; all else works without"


def check_gpus(scope: Scope) -> list[Finding]:
    """A summary named `gpus`, whose values hold the count, then one finding a GPU and one for peer access."""
    if not torch.cuda.is_available():
        return [_without_gpu()]
    count = torch.cuda.device_count()
    kernel, cuda = kernel_driver(), _cuda_version()
    summary = ok(
        "gpus",
        "GPUs",
        f"{count}, driver {kernel or 'of unknown version'}, CUDA {cuda} by the driver, {torch.version.cuda} by torch",
        count=count,
        driver=kernel,
        driver_cuda=cuda,
        torch_cuda=torch.version.cuda,
    )
    return [summary, *(_gpu(index) for index in range(count)), *_peers(count)]


def check_device(scope: Scope) -> list[Finding]:
    """What --device means here; `values` hold the device's name with its number."""
    title = f"--device {scope.device}"
    try:
        device = choose_device(scope.device)
    except SetupError as error:
        mend = "see the row GPUs, or give --device auto"
        return [not_here("device", title, one_line(str(error)), mend, device="cpu")]
    if device.type != "cuda":
        return [ok("device", title, "the CPU", device="cpu")]
    return [ok("device", title, f"cuda:{device.index or 0}", device=f"cuda:{device.index or 0}")]


def kernel_driver() -> str:
    """Version of the NVIDIA kernel module, "" when there is none or its file reads otherwise."""
    try:
        found = VERSION.search(DRIVER.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return ""
    return found[1] if found else ""


def _without_gpu() -> Finding:
    """Why torch sees none. A driver without a GPU for torch is a fault, no driver is none."""
    name, title, built = "gpus", "GPUs", torch.version.cuda
    values = {"count": 0, "driver": kernel_driver(), "driver_cuda": "", "torch_cuda": built}
    if not DRIVER.exists():
        mend = "a container gets the machine's by --gpus all; " + NEEDS
        return not_here(name, title, "no GPU here: there is no NVIDIA driver", mend, **values)
    if built is None:
        version = kernel_driver() or "of unknown version"
        found = f"an NVIDIA driver is here ({version}), and this torch is built without CUDA"
        return broken(name, title, found, "install the build of torch for CUDA", **values)
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        reason = "torch finds no device"
    except (RuntimeError, AssertionError) as error:
        reason = one_line(str(error))
    mend = "give the container its GPUs (--gpus all), look at CUDA_VISIBLE_DEVICES, or renew the driver"
    return broken(name, title, f"an NVIDIA driver is here, and torch cannot use it: {reason}", mend, **values)


def _gpu(index: int) -> Finding:
    about = torch.cuda.get_device_properties(index)
    free, total = torch.cuda.mem_get_info(index)
    mig = " MIG " in f" {about.name} "  # so the driver names an instance
    found = (
        f"{about.name}, {total / GIB:.1f} GiB, {free / GIB:.1f} free, compute capability {about.major}.{about.minor}, "
        f"{about.uuid}" + (", a MIG instance: CUDA IPC does not leave it" if mig else "")
    )
    return ok(
        f"gpu.{index}",
        f"cuda:{index}",
        found,
        name=about.name,
        uuid=str(about.uuid),
        total=total,
        free=free,
        compute_capability=[about.major, about.minor],
        mig=mig,
    )


def _peers(count: int) -> list[Finding]:
    """Which GPUs read each other's memory directly."""
    if count < 2:
        return []
    apart = [
        f"cuda:{one} cannot reach cuda:{two}"
        for one, two in permutations(range(count), 2)
        if not torch.cuda.can_device_access_peer(one, two)
    ]
    if apart:
        mend = "services on one GPU need none of it; between these, give --channel nccl or shm"
        return [broken("gpu.peers", "peer access", one_line("; ".join(apart)), mend, missing=apart)]
    return [ok("gpu.peers", "peer access", "between all GPUs", missing=[])]


def _cuda_version() -> str:
    try:
        return driver_version()
    except ChannelError:
        return "?"
