"""Which channel two places should use, by facts alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from minedraft.channel.negotiate import candidates
from minedraft.types import ChannelKind, HostFacts

ALL = tuple(ChannelKind)
CPU_KINDS = (ChannelKind.INLINE, ChannelKind.SHM, ChannelKind.GLOO)
ONE_GPU = HostFacts("boot", "pids", "7:1", "GPU-a", "13000", ALL)
OTHER_GPU = replace(ONE_GPU, gpu_uuid="GPU-b")
CPU = HostFacts("boot", "pids", "7:1", kinds=CPU_KINDS)
FAR_GPU = HostFacts("elsewhere", "pids", "7:1", "GPU-c", "13000", ALL)
FAR_CPU = HostFacts("elsewhere", "pids", "7:1", kinds=CPU_KINDS)


def possible(drafter: HostFacts, verifier: HostFacts) -> list[ChannelKind]:
    return [one.kind for one in candidates(drafter, verifier, None) if not one.obstacle]


@pytest.mark.parametrize(
    ("drafter", "verifier", "wanted"),
    [
        (ONE_GPU, ONE_GPU, ["cuda_ipc", "shm", "gloo", "inline"]),
        (ONE_GPU, OTHER_GPU, ["cuda_ipc", "nccl", "shm", "gloo", "inline"]),
        (ONE_GPU, replace(OTHER_GPU, pid_namespace="others"), ["nccl", "shm", "gloo", "inline"]),
        (ONE_GPU, replace(OTHER_GPU, driver_version="12000"), ["nccl", "shm", "gloo", "inline"]),
        (ONE_GPU, FAR_GPU, ["nccl", "gloo", "inline"]),
        (CPU, CPU, ["shm", "gloo", "inline"]),
        (CPU, ONE_GPU, ["shm", "gloo", "inline"]),
        (CPU, replace(CPU, shm_device="8:1"), ["gloo", "inline"]),
        (CPU, FAR_CPU, ["gloo", "inline"]),
        (HostFacts(kinds=CPU_KINDS), HostFacts(kinds=CPU_KINDS), ["gloo", "inline"]),
        (CPU, HostFacts(), []),
    ],
)
def test_the_best_comes_first(drafter: HostFacts, verifier: HostFacts, wanted: list[str]) -> None:
    assert [kind.value for kind in possible(drafter, verifier)] == wanted


@pytest.mark.parametrize(
    ("kind", "drafter", "verifier", "obstacle"),
    [
        (ChannelKind.SHM, CPU, FAR_CPU, "different hosts"),
        (ChannelKind.SHM, CPU, replace(CPU, shm_device="8:1"), "--shm-dir"),
        (ChannelKind.CUDA_IPC, CPU, ONE_GPU, "the drafter cannot"),
        (ChannelKind.CUDA_IPC, ONE_GPU, FAR_GPU, "different hosts"),
        (ChannelKind.NCCL, ONE_GPU, ONE_GPU, "one GPU"),
        (ChannelKind.NCCL, ONE_GPU, CPU, "the verifier cannot"),
        (ChannelKind.GLOO, CPU, FAR_CPU, ""),
    ],
)
def test_what_was_asked_for_is_the_only_candidate(
    kind: ChannelKind, drafter: HostFacts, verifier: HostFacts, obstacle: str
) -> None:
    (candidate,) = candidates(drafter, verifier, kind)
    assert candidate.kind is kind
    assert obstacle in candidate.obstacle
    assert bool(candidate.obstacle) == bool(obstacle)
