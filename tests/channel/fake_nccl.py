"""A fake of NCCL as nccl4py shows it, within one process, and the CPU twin of the side stream.

`FakeFabric` is what two ranks meet on; `FakeCore` stands in for the module nccl.core of one of two processes. It keeps
to the rules that NCCL documents, and notes each breach in `FakeFabric.violations`, which every test must find empty:

R1  ncclSend, ncclRecv (nccl.h): the peer calls the other one with the same datatype and the same count.
R2  User guide, Point-to-point: operations toward the same peer are executed in order. They carry no tag.
R3  User guide, Stream semantics: an operation reads and writes its buffers when the stream comes to it.
R4  User guide, ncclCommGetAsyncError: after in-progress, query until success before calling another NCCL function.
R5  The same, and Nonblocking group operation: before success, nothing may be enqueued on streams used by NCCL.
R6  User guide, ncclCommAbort: the communicator must not be used after it. All ranks must call it for themselves.
R7  ncclCommInitRankConfig (user guide): init completes when all ranks have called it; each rank once.
R8  User guide, Creating a communicator: one GPU must not be two ranks, which may hang.
R9  NCCL_RUNTIME_CONNECT (user guide, default 1): ranks connect when they first send to each other, which takes both.
R10 Nothing ends a wait for a peer that is gone but an abort; an error is reported late (network) or never (NVLink):
    user guide, Fault tolerance. `notice_seconds` chooses.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

import torch
from torch import Tensor

UNIQUE_ID_BYTES: Final = 128
POLLS: Final = 2  # queries that find a call in progress, where nothing but time is missing


class Result(IntEnum):
    """nccl.bindings.nccl.Result, as far as it is used."""

    Success = 0
    RemoteError = 6
    InProgress = 7


class NcclInvalid(Exception):
    """nccl.core.NcclInvalid."""


@dataclass
class Operation:
    """One send or receive, on its way through a stream."""

    sends: bool
    piece: Tensor
    checksum: int = 0  # of a send's bytes when it was enqueued
    done: bool = False


@dataclass
class Group:
    """What one launch carries: operations in order."""

    communicator: FakeCommunicator
    operations: list[Operation]
    cancelled: bool = False

    @property
    def done(self) -> bool:
        return self.cancelled or all(operation.done for operation in self.operations)


@dataclass
class Pair:
    """A communicator of two ranks, as both see it."""

    ranks: dict[int, FakeCommunicator] = field(default_factory=dict)
    issued: set[int] = field(default_factory=set)  # ranks that have posted anything: R9
    gone: dict[int, float] = field(default_factory=dict)  # ranks that aborted or died, and since when


class FakeFabric:
    """Where ranks meet."""

    def __init__(self, notice_seconds: float | None = None) -> None:
        self.lock = threading.RLock()
        self.notice_seconds = notice_seconds  # None: never, as over NVLink
        self.violations: list[str] = []
        self.streams: list[FakeStream] = []
        self.abort_gate = threading.Event()  # an abort blocks until it is set
        self.abort_gate.set()
        self.init_gate = threading.Event()  # an init blocks until it is set
        self.init_gate.set()
        self._pairs: dict[bytes, Pair] = {}

    def violation(self, rule: str, what: str) -> None:
        self.violations.append(f"{rule}: {what}")

    def name_pair(self) -> bytes:
        with self.lock:
            name = len(self._pairs).to_bytes(8, "little").rjust(UNIQUE_ID_BYTES, b"\x01")
            self._pairs[name] = Pair()
            return name

    @property
    def alive(self) -> int:
        """Ranks that were neither aborted nor killed."""
        with self.lock:
            return sum(len(pair.ranks.keys() - pair.gone.keys()) for pair in self._pairs.values())

    def pair(self, name: bytes) -> Pair:
        return self._pairs[name]

    def kill(self, gpu: str) -> None:
        """SIGKILL for the process on this GPU: its ranks do nothing from now on, and abort nothing."""
        with self.lock:
            for pair in self._pairs.values():
                for rank, communicator in pair.ranks.items():
                    if communicator.gpu == gpu:
                        pair.gone.setdefault(rank, time.monotonic())

    def progress(self) -> None:
        """Move what both sides have launched."""
        while any(self._move(pair) for pair in self._pairs.values()):
            pass

    def _move(self, pair: Pair) -> bool:
        heads = [pair.ranks[rank].head() for rank in sorted(pair.ranks)]
        if len(heads) != 2 or pair.gone:
            return False
        one, two = heads
        if one is None or two is None or one.sends == two.sends:
            return False
        source, target = (one, two) if one.sends else (two, one)
        if source.piece.dtype != target.piece.dtype or source.piece.numel() != target.piece.numel():
            self.violation("R1", f"a send of {source.piece.numel()} met a receive of {target.piece.numel()}")
            pair.gone.update({0: time.monotonic(), 1: time.monotonic()})  # undefined from here on: it hangs
            return False
        if _checksum(source.piece) != source.checksum:
            self.violation("R3", "a buffer was changed between ncclSend and its turn on the stream")
        target.piece.copy_(source.piece)
        source.done = target.done = True
        return True


class FakeStream:
    """The CPU twin of a CUDA stream: a SideStream on `gpu`."""

    def __init__(self, fabric: FakeFabric, gpu: str) -> None:
        self._fabric = fabric
        self._gpu = gpu
        self._groups: list[Group] = []
        self.users: list[FakeCommunicator] = []
        fabric.streams.append(self)
        self._handle = len(fabric.streams)

    @property
    def handle(self) -> int:
        return self._handle

    @property
    def gpu(self) -> str:
        return self._gpu

    def on_device(self) -> AbstractContextManager[object]:
        return nullcontext()

    def empty(self, nbytes: int) -> Tensor:
        return torch.full((nbytes,), 0xCD, dtype=torch.uint8)  # not cleared

    def follow(self) -> None:
        """The CPU has done already what it was given."""

    def mark(self) -> FakeMark:
        with self._fabric.lock:
            if any(user.busy for user in self.users):
                self._fabric.violation("R5", "an event was recorded while NCCL was enqueueing")
            return FakeMark(self._fabric, tuple(self._groups))

    def synchronise(self) -> None:
        mark = self.mark()
        while not mark.done():
            time.sleep(0.001)

    def launch(self, group: Group) -> None:
        self._groups.append(group)

    def head(self) -> Group | None:
        """The first group that is not done."""
        self._groups = [group for group in self._groups if not group.done]
        return self._groups[0] if self._groups else None

    def cancel(self, communicator: FakeCommunicator) -> None:
        for group in self._groups:
            if group.communicator is communicator:
                group.cancelled = True


class FakeMark:
    """An event on a FakeStream."""

    def __init__(self, fabric: FakeFabric, groups: tuple[Group, ...]) -> None:
        self._fabric = fabric
        self._groups = groups

    def done(self) -> bool:
        with self._fabric.lock:
            self._fabric.progress()
            return all(group.done for group in self._groups)


@dataclass(frozen=True)
class NCCLConfig:
    """nccl.core.NCCLConfig, as far as it is used."""

    blocking: bool
    max_ctas: int


class UniqueId:
    """nccl.core.UniqueId."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @staticmethod
    def from_bytes(data: bytes) -> UniqueId:
        if len(data) != UNIQUE_ID_BYTES:
            raise ValueError(f"{len(data)} bytes")
        return UniqueId(data)

    def __bytes__(self) -> bytes:
        return self._data


class FakeCore:
    """The module nccl.core of a process that uses one GPU."""

    def __init__(self, fabric: FakeFabric, gpu: str) -> None:
        self.fabric = fabric
        self.gpu = gpu
        self._local = threading.local()  # groups are the calling thread's: user guide, Group calls
        self.Communicator = CommunicatorClass(self)
        self.NCCLConfig = NCCLConfig
        self.UniqueId = UniqueId

    def get_unique_id(self) -> UniqueId:
        return UniqueId(self.fabric.name_pair())

    @contextmanager
    def group(self) -> Iterator[None]:
        self._local.calls = []
        try:
            yield
        finally:
            calls: list[tuple[FakeCommunicator, int, Operation]] = self._local.calls
            del self._local.calls
            self.issue(calls)

    def enqueue(self, communicator: FakeCommunicator, stream: int, operation: Operation) -> None:
        calls = getattr(self._local, "calls", None)
        if calls is None:
            self.issue([(communicator, stream, operation)])
        else:
            calls.append((communicator, stream, operation))

    def issue(self, calls: Sequence[tuple[FakeCommunicator, int, Operation]]) -> None:
        with self.fabric.lock:
            for communicator, stream in {(communicator, stream) for communicator, stream, _ in calls}:
                operations = [operation for owner, _, operation in calls if owner is communicator]
                communicator.issue(self.fabric.streams[stream - 1], operations)


class CommunicatorClass:
    """The class nccl.core.Communicator, whose `init` knows its process."""

    def __init__(self, core: FakeCore) -> None:
        self._core = core

    def init(self, nranks: int, rank: int, unique_id: UniqueId, config: NCCLConfig) -> FakeCommunicator:
        assert nranks == 2
        assert not config.blocking
        fabric = self._core.fabric
        fabric.init_gate.wait()
        with fabric.lock:
            pair = fabric.pair(bytes(unique_id))
            if rank in pair.ranks:
                fabric.violation("R7", f"rank {rank} came twice")
            communicator = pair.ranks[rank] = FakeCommunicator(self._core, pair, rank)
            if len({member.gpu for member in pair.ranks.values()}) < len(pair.ranks):
                fabric.violation("R8", f"both ranks are on {self._core.gpu}")
            return communicator


class FakeCommunicator:
    """nccl.core.Communicator, non-blocking."""

    def __init__(self, core: FakeCore, pair: Pair, rank: int) -> None:
        self.gpu = core.gpu
        self._core = core
        self._fabric = core.fabric
        self._pair = pair
        self._rank = rank
        self._polls = POLLS
        self._initialised = False
        self._aborted = False
        self._issued: tuple[FakeStream, Group] | None = None  # in progress: not on the stream yet
        self._stream: FakeStream | None = None

    @property
    def busy(self) -> bool:
        return not self._aborted and (not self._initialised or self._issued is not None)

    def send(self, piece: Tensor, peer: int, *, stream: int) -> None:
        self._check(peer)
        self._core.enqueue(self, stream, Operation(True, piece, _checksum(piece)))

    def recv(self, piece: Tensor, peer: int, *, stream: int) -> None:
        self._check(peer)
        self._core.enqueue(self, stream, Operation(False, piece))

    def get_async_error(self) -> Result:
        with self._fabric.lock:
            self._check_alive("ncclCommGetAsyncError")
            if self._peer_noticed():
                return Result.RemoteError
            if not self.busy:
                return Result.Success
            if not self._peer_is_here() or self._polls > 0:
                self._polls -= self._peer_is_here()
                return Result.InProgress
            self._initialised = True
            if self._issued is not None:
                stream, group = self._issued
                stream.launch(group)
                self._issued = None
            return Result.Success

    def abort(self) -> None:
        self._fabric.abort_gate.wait()
        with self._fabric.lock:
            self._check_alive("ncclCommAbort")
            self._aborted = True
            self._issued = None
            self._pair.gone[self._rank] = time.monotonic()
            if self._stream is not None:
                self._stream.cancel(self)

    def issue(self, stream: FakeStream, operations: list[Operation]) -> None:
        if self.busy:
            self._fabric.violation("R4", "a group ended while the communicator was in progress")
        self._pair.issued.add(self._rank)
        self._issued = stream, Group(self, operations)
        self._polls = POLLS
        self._stream = stream
        if self not in stream.users:
            stream.users.append(self)

    def head(self) -> Operation | None:
        """The operation that this rank's stream has come to, when it is one of this communicator's."""
        group = self._stream.head() if self._stream is not None else None
        if group is None or group.communicator is not self:
            return None
        return next(operation for operation in group.operations if not operation.done)

    def _peer_is_here(self) -> bool:
        """Whether what needs the peer is done: R7, then R9. Later calls are enqueued whether it lives or not."""
        if self._initialised and len(self._pair.issued) == 2:
            return True
        return not self._pair.gone and not self._initialised and len(self._pair.ranks) == 2

    def _peer_noticed(self) -> bool:
        since = self._pair.gone.get(1 - self._rank)
        seconds = self._fabric.notice_seconds
        return since is not None and seconds is not None and time.monotonic() - since > seconds

    def _check(self, peer: int) -> None:
        with self._fabric.lock:
            self._check_alive("ncclSend or ncclRecv")
            if self.busy:
                self._fabric.violation("R4", "ncclSend or ncclRecv while the communicator was in progress")
            if peer != 1 - self._rank:
                self._fabric.violation("R1", f"rank {self._rank} has no peer {peer}")

    def _check_alive(self, call: str) -> None:
        if self._aborted:
            self._fabric.violation("R6", f"{call} after ncclCommAbort")
            raise NcclInvalid(f"Cannot {call}: Communicator not initialized")


def _checksum(piece: Tensor) -> int:
    return zlib.crc32(piece.numpy().tobytes())
