"""Which tensor channels work here: each kind is opened between two processes of this machine, and used.

The processes play drafter (guest, sender) and verifier (owner, receiver), as the services do. The dense laws of an
inline channel go through a socket here and through gRPC there, so its figures flatter it.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Final

from minedraft.channel import negotiate
from minedraft.cli.doctor.child import Child, ChildLost
from minedraft.cli.doctor.finding import NO_GPU, Finding, Result, Scope, broken, not_here, ok, one_line
from minedraft.errors import MinedraftError
from minedraft.types import ChannelKind, HostFacts

PROCESS: Final = ("-m", "minedraft.cli.doctor.trial_process")
HOST: Final = "127.0.0.1"
CPU: Final = "cpu"
ON_GPU: Final = frozenset({ChannelKind.CUDA_IPC, ChannelKind.NCCL})
ORDER: Final = (ChannelKind.INLINE, ChannelKind.SHM, ChannelKind.GLOO, ChannelKind.CUDA_IPC, ChannelKind.NCCL)
GPU_MACHINE: Final = "it needs an NVIDIA GPU, its driver and a torch built for CUDA; --channel auto does without"
MENDS: Final = {
    ChannelKind.INLINE: "it needs nothing but the engine: report the reason as a fault",
    ChannelKind.SHM: "name a folder in memory that both services write by --shm-dir, or make it larger: --shm-size 1g",
    ChannelKind.GLOO: "let processes here reach each other over TCP, or give --channel shm",
    ChannelKind.CUDA_IPC: "let both services share the PID and the IPC namespace (--pid, --ipc), or give --channel shm",
    ChannelKind.NCCL: "see why with NCCL_DEBUG=INFO, or give --channel auto",
}


@dataclass(frozen=True, slots=True)
class Trial:
    """What one kind did."""

    latency_seconds: float  # of a small payload
    bandwidth: float  # of large payloads, bytes a second
    small_bytes: int
    large_bytes: int


class TrialFailed(MinedraftError):
    """The channel did not open, or did not bring the payloads."""


class Pair:
    """The two processes. They are started when they are needed, and anew after every failure. For one thread."""

    def __init__(self, shm_dir: str, seconds: float, process: tuple[str, ...] = PROCESS) -> None:
        """`process` is run by the interpreter with the number of its end's socket; `seconds` is for one trial."""
        self._shm_dir = shm_dir
        self._process = process
        self._seconds = seconds
        self._children: tuple[Child, Child] | None = None

    def facts(self, device: str) -> HostFacts:
        """What the services on this device would say of their place. Raises TrialFailed."""
        with self._whole():
            answer = self._drafter.ask(self._command("facts", device), self._seconds)
            _raise_failure(answer)
            found: dict[str, Any] = answer["facts"]
            return HostFacts(**{**found, "kinds": tuple(ChannelKind(kind) for kind in found["kinds"])})

    def run(self, kind: ChannelKind, drafter: str, verifier: str) -> Trial:
        """Open a channel between two devices and use it. Raises TrialFailed."""
        with self._whole():
            self._drafter.tell(self._command("send", drafter, kind), self._seconds)
            self._verifier.tell(self._command("receive", verifier, kind), self._seconds)
            answers = [child.answer(self._seconds) for child in (self._verifier, self._drafter)]
            _raise_failure(*answers)
        small, large = answers[0]["timings"]
        return Trial(
            small["median_seconds"],
            large["nbytes"] / max(large["median_seconds"], 1e-9),
            small["nbytes"],
            large["nbytes"],
        )

    def close(self) -> None:
        """Kill the processes."""
        children, self._children = self._children, None
        for child in children or ():
            child.close()

    @property
    def _drafter(self) -> Child:
        return self._started()[0]

    @property
    def _verifier(self) -> Child:
        return self._started()[1]

    def _started(self) -> tuple[Child, Child]:
        if self._children is None:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                self._children = self._spawn(ours), self._spawn(theirs)
        return self._children

    def _spawn(self, end: socket.socket) -> Child:
        return Child((*self._process, str(end.fileno())), pass_fds=(end.fileno(),))

    def _command(self, do: str, device: str, kind: ChannelKind | None = None) -> dict[str, Any]:
        return {
            "do": do,
            "device": device,
            "directory": self._shm_dir,
            "host": HOST,
            "kind": kind.value if kind else "",
        }

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Nobody uses the processes again after a failure: what they were in the middle of is unknown."""
        try:
            yield
        except ChildLost as error:
            self.close()
            raise TrialFailed(str(error)) from error
        except BaseException:
            self.close()
            raise


def check_all(scope: Scope, device: str, gpus: int, pair: Pair) -> Iterator[Finding]:
    """One finding for each kind, then what --channel auto would take. `device` is the services', `gpus` how many."""
    works: set[ChannelKind] = set()
    for kind in ORDER:
        for finding in check(kind, device, gpus, pair):
            if finding.is_ok and finding.name == name_of(kind):
                works.add(kind)
            yield finding
    yield _choice(works, device)


def check(kind: ChannelKind, device: str, gpus: int, pair: Pair) -> Iterator[Finding]:
    """Whether the kind works between two services on `device`; cuda_ipc also, and nccl only, between two GPUs."""
    if reason := _missing(kind, device, gpus):
        yield not_here(name_of(kind), title_of(kind), *reason)
        return
    other = _other_gpu(device, gpus)
    if kind is not ChannelKind.NCCL:
        yield try_once(kind, name_of(kind), title_of(kind), (device, device), pair)
    if kind in ON_GPU and gpus > 1:
        apart = "" if kind is ChannelKind.NCCL else ".two_gpus"
        title = f"{title_of(kind)}, {other} to {device}"
        yield try_once(kind, name_of(kind) + apart, title, (other, device), pair)


def try_once(kind: ChannelKind, name: str, title: str, devices: tuple[str, str], pair: Pair) -> Finding:
    """The finding of one trial, from the drafter's device to the verifier's."""
    try:
        facts = [pair.facts(device) for device in devices]
        if obstacle := negotiate.obstacle(kind, *facts):
            return broken(name, title, obstacle, MENDS[kind])
        trial = pair.run(kind, *devices)
    except TrialFailed as error:
        return broken(name, title, one_line(str(error)), MENDS[kind])
    found = (
        f"{trial.bandwidth / 1e9:.2f} GB/s at {trial.large_bytes / 1e6:.0f} MB, "
        f"{trial.latency_seconds * 1e6:.0f} us at {trial.small_bytes >> 10} KiB"
    )
    if kind is ChannelKind.INLINE:
        found += " (by a socket; the services go by gRPC)"
    return ok(
        name,
        title,
        found,
        bytes_per_second=trial.bandwidth,
        latency_seconds=trial.latency_seconds,
        large_bytes=trial.large_bytes,
        small_bytes=trial.small_bytes,
        devices=list(devices),
    )


def not_tried(reason: str, mend: str) -> Iterator[Finding]:
    """The findings when nothing could be tried."""
    for kind in ORDER:
        yield not_here(name_of(kind), title_of(kind), reason, mend)
    yield not_here("channel", "channel auto", reason, mend)


def name_of(kind: ChannelKind) -> str:
    return f"channel.{kind.value}"


def title_of(kind: ChannelKind) -> str:
    return f"channel {kind.value}"


def _missing(kind: ChannelKind, device: str, gpus: int) -> tuple[str, str] | None:
    """Why the kind is not tried, and what to do; None when it is."""
    if kind not in ON_GPU:
        return None
    if gpus == 0:
        return NO_GPU, GPU_MACHINE
    if device == CPU:
        return "not run: --device cpu was given", "give --device cuda"
    if kind is ChannelKind.NCCL and find_spec("nccl") is None:
        return "not run: nccl4py is not installed", "pip install 'minedraft[gpu]'"
    if kind is ChannelKind.NCCL and gpus == 1:
        return "not run: it needs two GPUs, and 1 is here", "two services on one GPU use cuda_ipc"
    return None


def _choice(works: set[ChannelKind], device: str) -> Finding:
    """What services on one device would agree on: see `minedraft.channel.negotiate`."""
    order = negotiate.SAME_HOST if device == CPU else negotiate.SAME_GPU
    title = "channel auto"
    tried = [kind for kind in order if kind in works]
    if not tried:
        return broken("channel", title, "no channel works: dense laws have no way", "mend one of the channels above")
    return Finding(
        "channel", title, Result.OK, f"{tried[0].value}, for two services on {device}", values={"kind": tried[0].value}
    )


def _other_gpu(device: str, gpus: int) -> str:
    index = int(device.partition(":")[2] or 0)
    return f"cuda:{(index + 1) % max(gpus, 1)}"


def _raise_failure(*answers: dict[str, Any]) -> None:
    """Raises TrialFailed with the words of the end that failed first."""
    failures = [answer for answer in answers if "failed" in answer]
    failures.sort(key=lambda answer: bool(answer["by_other"]))
    if failures:
        raise TrialFailed(str(failures[0]["failed"]))
