"""What the nccl channel asks of NCCL, and nccl4py as one who does it.

The calls, and the meaning of a non-blocking communicator, are those of nccl4py 0.6 and of NCCL's user guide. nccl4py is
imported when it is first needed. Not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from importlib import import_module
from typing import Any, Final, Protocol

from torch import Tensor

from minedraft.errors import ChannelError

UNIQUE_ID_BYTES: Final = 128  # NCCL_UNIQUE_ID_BYTES
RANKS: Final = 2
MAX_CTAS: Final = 4
"""Blocks a kernel may use. A send occupies its blocks until the receiver comes, so they must leave room for the models;
chosen, not measured."""


class NcclState(Enum):
    """What `ncclCommGetAsyncError` says, as far as a caller acts on it."""

    READY = "ready"
    BUSY = "busy"
    """The last call goes on in the background. Until it is READY, no other call may be made, and nothing may be
    enqueued on the streams in use (user guide, ncclCommGetAsyncError)."""
    FAILED = "failed"


class NcclCommunicator(Protocol):
    """One rank's end of two. All methods return at once and raise ChannelError."""

    def state(self) -> NcclState:
        """May be asked at any time before `abort`."""

    def send(self, pieces: Sequence[Tensor], stream: int) -> None:
        """Enqueue uint8 tensors to the other rank, in this order, as one group."""

    def recv(self, piece: Tensor, stream: int) -> None:
        """Enqueue a receive of exactly this many bytes from the other rank."""

    def abort(self) -> None:
        """End what is running and free everything. May block, unlike the others. The last call."""


class NcclLibrary(Protocol):
    """Makes communicators. The tests have a fake."""

    def unique_id(self) -> bytes:
        """UNIQUE_ID_BYTES that name a communicator to be. Raises ChannelError."""

    def communicator(self, rank: int, unique_id: bytes) -> NcclCommunicator:
        """This rank's end, on the calling thread's current GPU. BUSY until the other rank has come too.

        Raises ChannelError.
        """


class Nccl4py:
    """NcclLibrary of NVIDIA's package."""

    def __init__(self, core: Any = None) -> None:
        """`core` is the module nccl.core, imported here when it is not given.

        Raises ChannelError when the package, or a library under it, is missing.
        """
        try:
            self._core = core or import_module("nccl.core")
        except (ImportError, RuntimeError) as error:  # RuntimeError: the package is there, a CUDA library is not
            raise ChannelError(f"the nccl channel needs nccl4py: pip install 'minedraft[gpu]' ({error})") from error

    def unique_id(self) -> bytes:
        with _translated():
            return bytes(self._core.get_unique_id())

    def communicator(self, rank: int, unique_id: bytes) -> NcclCommunicator:
        core = self._core
        with _translated():
            config = core.NCCLConfig(blocking=False, max_ctas=MAX_CTAS)
            name = core.UniqueId.from_bytes(unique_id)
            return Nccl4pyCommunicator(core, core.Communicator.init(RANKS, rank, name, config=config), RANKS - 1 - rank)


class Nccl4pyCommunicator:
    """NcclCommunicator of nccl4py. Its bindings raise for every result but success and in-progress."""

    def __init__(self, core: Any, communicator: Any, peer: int) -> None:
        self._core = core
        self._communicator = communicator
        self._peer = peer

    def state(self) -> NcclState:
        with _translated():
            result = self._communicator.get_async_error()
        match result.name:
            case "Success":
                return NcclState.READY
            case "InProgress":
                return NcclState.BUSY
        return NcclState.FAILED

    def send(self, pieces: Sequence[Tensor], stream: int) -> None:
        with _translated(), self._core.group():
            for piece in pieces:
                self._communicator.send(piece, self._peer, stream=stream)

    def recv(self, piece: Tensor, stream: int) -> None:
        with _translated():
            self._communicator.recv(piece, self._peer, stream=stream)

    def abort(self) -> None:
        with _translated():
            self._communicator.abort()


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except ChannelError:
        raise
    except Exception as error:  # nccl4py's errors have no common base: NCCLError, NcclInvalid, CUDAError, ...
        raise ChannelError(f"NCCL failed: {error}") from error
