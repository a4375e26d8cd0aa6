"""Which channel two services should use: from facts alone, torch-free. The choice is then tried with real bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from minedraft.types import ChannelKind, HostFacts

SAME_GPU: Final = (ChannelKind.CUDA_IPC, ChannelKind.SHM, ChannelKind.GLOO, ChannelKind.INLINE)
SAME_HOST: Final = (
    ChannelKind.CUDA_IPC,
    ChannelKind.NCCL,
    ChannelKind.SHM,
    ChannelKind.GLOO,
    ChannelKind.INLINE,
)
OTHER_HOST: Final = (ChannelKind.NCCL, ChannelKind.GLOO, ChannelKind.INLINE)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A channel worth trying, or the reason why it is not."""

    kind: ChannelKind
    obstacle: str = ""  # why the facts rule it out; "" when they do not


def candidates(drafter: HostFacts, verifier: HostFacts, wanted: ChannelKind | None) -> list[Candidate]:
    """The channels to try, the best first. With `wanted` that one alone; None means the best that works."""
    if wanted is not None:
        return [Candidate(wanted, obstacle(wanted, drafter, verifier))]
    return [Candidate(kind, obstacle(kind, drafter, verifier)) for kind in order(drafter, verifier)]


def order(drafter: HostFacts, verifier: HostFacts) -> tuple[ChannelKind, ...]:
    """All kinds that make sense between two such places, the fastest first."""
    if not same_host(drafter, verifier):
        return OTHER_HOST
    return SAME_GPU if same_gpu(drafter, verifier) else SAME_HOST


def obstacle(kind: ChannelKind, drafter: HostFacts, verifier: HostFacts) -> str:
    """Why this kind cannot work between the two, "" when nothing speaks against it."""
    for name, facts in (("drafter", drafter), ("verifier", verifier)):
        if kind not in facts.kinds:
            return f"the {name} cannot open it"
    far, apart = not same_host(drafter, verifier), drafter.pid_namespace != verifier.pid_namespace
    elsewhere = "the services run on different hosts"
    drivers = drafter.driver_version, verifier.driver_version
    rules: dict[ChannelKind, list[tuple[bool, str]]] = {
        ChannelKind.SHM: [
            (far, elsewhere),
            (
                drafter.shm_device != verifier.shm_device,
                "the services do not share a folder for shared memory: see --shm-dir",
            ),
        ],
        ChannelKind.CUDA_IPC: [
            (far, elsewhere),
            (apart, "the services do not share a PID namespace, which CUDA IPC needs between containers"),
            (drivers[0] != drivers[1], f"the GPU drivers differ: {drivers[0]} and {drivers[1]}"),
        ],
        ChannelKind.NCCL: [
            (same_gpu(drafter, verifier), "both use one GPU, between whose processes NCCL does not work"),
        ],
    }
    return next((reason for broken, reason in rules.get(kind, []) if broken), "")


def same_host(drafter: HostFacts, verifier: HostFacts) -> bool:
    """Whether one kernel runs both."""
    return bool(drafter.boot_id) and drafter.boot_id == verifier.boot_id


def same_gpu(drafter: HostFacts, verifier: HostFacts) -> bool:
    return bool(drafter.gpu_uuid) and drafter.gpu_uuid == verifier.gpu_uuid
