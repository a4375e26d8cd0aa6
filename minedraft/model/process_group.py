"""The ranks of a tensor-parallel model as one `torch.distributed` group: gloo on CPUs, NCCL on GPUs, on one machine.

gloo and the store that the ranks meet at listen on 127.0.0.1 alone. gloo would choose its address by the machine's name
otherwise, or by an environment variable; through torch's registry of backends it is told. Every collective ends within
the given time, with an error: a group in which a rank is gone or late never heals. NCCL was not yet run.
"""

from __future__ import annotations

import socket
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import TCPStore

from minedraft.errors import SetupError

HOST: Final = "127.0.0.1"
LOOPBACK: Final = "minedraft_loopback"  # gloo on 127.0.0.1, in torch's registry of backends
NCCL: Final = "nccl"
MEETING_SECONDS: Final = 120.0  # for all ranks to reach the store once each has said that it is there
THREADS: Final = 2  # of gloo, as torch has them


def open_store(ranks: int) -> Any:
    """The `TCPStore` that the ranks meet at; `port` is its port. For rank 0."""
    listener = socket.create_server((HOST, 0))
    return TCPStore(
        HOST,
        listener.getsockname()[1],
        ranks,
        is_master=True,
        timeout=timedelta(seconds=MEETING_SECONDS),
        wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )


def find_store(port: int, ranks: int) -> Any:
    """The store that rank 0 opened. For the other ranks."""
    return TCPStore(HOST, port, ranks, is_master=False, timeout=timedelta(seconds=MEETING_SECONDS))


def join(store: Any, rank: int, ranks: int, device: torch.device, timeout_seconds: float) -> None:
    """Become this rank of the process's default group; returns when all ranks are there.

    `device` is the CPU, or the GPU of this rank. Collectives fail after `timeout_seconds`. Raises SetupError when the
    group cannot be made, or this process is in one already.
    """
    if dist.is_initialized():
        raise SetupError("this process is part of a torch.distributed group already: it cannot serve in another")
    timeout = timedelta(seconds=timeout_seconds)

    def make_gloo(store: Any, rank: int, ranks: int, _: timedelta) -> Any:
        options: Any = dist.ProcessGroupGloo._Options()  # type: ignore[attr-defined]
        options._devices = [dist.ProcessGroupGloo.create_device(hostname=HOST)]
        options._threads = THREADS
        options._timeout = timeout  # that of the whole group, which torch does not hand on to its parts
        return dist.ProcessGroupGloo(store, rank, ranks, options)

    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.set_device(device)
    else:
        dist.Backend.register_backend(LOOPBACK, make_gloo, devices=["cpu"])
    try:
        dist.init_process_group(
            NCCL if on_gpu else LOOPBACK,
            store=store,
            rank=rank,
            world_size=ranks,
            timeout=timeout,
            device_id=device if on_gpu else None,
        )
    except (RuntimeError, ValueError) as error:
        raise SetupError(f"--tensor-parallel: rank {rank} of {ranks} cannot join: {error}") from error


def smallest(values: list[int], device: torch.device) -> list[int]:
    """The smallest of all ranks, place by place. Every rank calls it; it returns when all have."""
    numbers = torch.tensor(values, dtype=torch.int64, device=device)
    dist.all_reduce(numbers, dist.ReduceOp.MIN)
    return [int(number) for number in numbers.tolist()]


def leave() -> None:
    """Leave the group, if there is one. The other ranks need not be there any more."""
    if dist.is_initialized():
        dist.destroy_process_group()
