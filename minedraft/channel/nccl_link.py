"""One communicator of two ranks, from handshake to abort. Not yet run on a GPU.

Both ends come up on a helper thread: the communicator is made without blocking and polled against a deadline, then one
payload of full size goes through it. NCCL connects two ranks when they first send to each other, which takes both, so
this is what makes sure that a later `post` never waits for the peer.

A failure is for good: the first one is kept and told to every later call, and the communicator is aborted on a thread
of its own, which may hang for as long as it likes. The buffers that kernels may still touch are held until it is done.
No communicator is ever destroyed or finalised: both wait for the peer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from torch import Tensor

from minedraft.channel.base import HANDSHAKE_SECONDS
from minedraft.channel.device_message import decode, encode
from minedraft.channel.nccl_library import UNIQUE_ID_BYTES, NcclCommunicator, NcclLibrary, NcclState
from minedraft.channel.side_stream import Mark, SideStream
from minedraft.errors import ChannelError
from minedraft.types import ChannelSpec

POLL_SECONDS: Final = 0.0001
OWNER: Final = 0  # rank
GUEST: Final = 1


@dataclass(frozen=True, slots=True)
class Offer:
    """The owner's first message."""

    unique_id: str  # UNIQUE_ID_BYTES as hexadecimal
    gpu: str  # UUID


@dataclass(frozen=True, slots=True)
class Answer:
    """The guest's."""

    gpu: str


class NcclLink:
    """What the sender and the receiver of this kind have in common."""

    def __init__(self, spec: ChannelSpec, library: NcclLibrary, stream: SideStream) -> None:
        self.stream = stream
        self._spec = spec
        self._library = library
        self._warm_up: Callable[[float], None] | None = None
        self._unique_id = b""
        self._lock = threading.Lock()  # held for each call to NCCL, so that none meets an abort
        self._flags = threading.Lock()  # guards _failure and _started, never held for long
        self._started = False
        self._communicator: NcclCommunicator | None = None
        self._failure = ""  # the reason of the first failure, "" while there is none
        self._made = threading.Event()  # the helper thread has the communicator, or will have none
        self._ready = threading.Event()  # the helper thread is done, well or not
        self._gone = threading.Event()  # nothing of the communicator is left
        self._held: list[Tensor] = []  # what kernels may touch until then

    def hold(self, tensor: Tensor) -> Tensor:
        """Keep a buffer alive until no kernel of the communicator can touch it."""
        self._held.append(tensor)
        return tensor

    def warm_up_by(self, action: Callable[[float], None]) -> None:
        """What this end does first, on the helper thread, until a deadline by time.monotonic()."""
        self._warm_up = action

    def offer(self) -> bytes:
        self._unique_id = self._library.unique_id()
        return encode(Offer(self._unique_id.hex(), self.stream.gpu), self._spec)

    def join(self, offer: bytes) -> bytes:
        found = decode(Offer, offer, self._spec)
        self._check_gpu(found.gpu)
        try:
            self._unique_id = bytes.fromhex(found.unique_id)
        except ValueError as error:
            raise ChannelError("the offer's unique id is not hexadecimal") from error
        if len(self._unique_id) != UNIQUE_ID_BYTES:
            raise ChannelError(f"a unique id of {len(self._unique_id)} bytes, NCCL's have {UNIQUE_ID_BYTES}")
        self._start(GUEST, 2 * HANDSHAKE_SECONDS)  # the owner begins only when it has the answer
        return encode(Answer(self.stream.gpu), self._spec)

    def seal(self, answer: bytes) -> None:
        found = decode(Answer, answer, self._spec)
        self._check_gpu(found.gpu)
        if not self._unique_id:
            raise ChannelError("nothing was offered")
        self._start(OWNER, HANDSHAKE_SECONDS)
        self.wait_open(HANDSHAKE_SECONDS)

    def wait_open(self, seconds: float) -> None:
        """Until the helper thread is done. Raises ChannelError when the channel is not open then."""
        if not self._ready.wait(seconds):
            self.fail(f"the peer did not come within {seconds:g} s")
        if self._failure:
            raise ChannelError(self._failure)

    def check(self) -> None:
        """Raises ChannelError when the channel has failed, or nobody opened it."""
        if self._failure or not self._started:
            raise ChannelError(self._failure or "the nccl channel is not open")

    def post(self, action: Callable[[NcclCommunicator], None], deadline: float) -> Mark:
        """Enqueue transfers on the side stream, after what the calling thread's stream was given so far.

        Returns when NCCL has them on the stream, with the point where they are done. A mark before that would be in
        front of them: NCCL enqueues in the background.
        """
        try:
            with self._lock:
                communicator = self._live()
                self.stream.follow()
                action(communicator)
            self._settle(deadline)
            return self.stream.mark()
        except ChannelError as error:
            self.fail(str(error))
            raise

    def wait(self, mark: Mark, deadline: float) -> None:
        """Until what was posted before the mark is done. Raises ChannelError, for good, when that takes too long."""
        try:
            while not mark.done():
                self._state()
                self._sleep(deadline, "the peer did not come for its part in time")
            self.check()  # an abort ends transfers too, without their bytes
        except ChannelError as error:
            self.fail(str(error))
            raise

    def close(self) -> None:
        self.fail("the nccl channel is closed")

    def fail(self, reason: str) -> None:
        """End the communicator, for good. Never raises, never waits."""
        with self._flags:
            first = not self._failure
            self._failure = self._failure or reason
        if first:
            with suppress(RuntimeError):  # the interpreter is shutting down
                threading.Thread(target=self._abort, name="nccl-abort", daemon=True).start()

    def wait_gone(self, seconds: float) -> bool:
        """Whether the abort that a failure began is done, after so many seconds at most."""
        return self._gone.wait(seconds)

    def _start(self, rank: int, seconds: float) -> None:
        with self._flags:
            if self._failure or self._started:
                raise ChannelError(self._failure or "the handshake was made already")
            self._started = True
        arguments = (rank, time.monotonic() + seconds)
        threading.Thread(target=self._open, args=arguments, name="nccl-open", daemon=True).start()

    def _open(self, rank: int, deadline: float) -> None:
        try:
            try:
                with self.stream.on_device():
                    self._communicator = self._library.communicator(rank, self._unique_id)
            finally:
                self._made.set()
            self._settle(deadline)
            if self._warm_up is not None:
                self._warm_up(deadline)
        except ChannelError as error:
            self.fail(str(error))
        finally:
            self._ready.set()

    def _abort(self) -> None:
        if self._started:
            self._made.wait()
        with self._lock:
            communicator, self._communicator = self._communicator, None
        if communicator is not None:
            with suppress(ChannelError):  # it is given up either way
                communicator.abort()
            with suppress(ChannelError):
                self.stream.synchronise()
        self._held.clear()
        self._gone.set()

    def _settle(self, deadline: float) -> None:
        """Until NCCL is done with the last call, which is then on the stream."""
        while self._state() is NcclState.BUSY:
            self._sleep(deadline, "NCCL was not ready in time")

    def _state(self) -> NcclState:
        with self._lock:
            state = self._live().state()
        if state is NcclState.FAILED:
            raise ChannelError("NCCL reports a failure: the peer or the way to it is gone")
        return state

    def _live(self) -> NcclCommunicator:
        """With the lock held. Raises ChannelError when the channel has failed, or is not open."""
        if self._failure or self._communicator is None:
            raise ChannelError(self._failure or "the nccl channel is not open")
        return self._communicator

    def _sleep(self, deadline: float, problem: str) -> None:
        if time.monotonic() > deadline:
            raise ChannelError(problem)
        time.sleep(POLL_SECONDS)

    def _check_gpu(self, gpu: str) -> None:
        # NCCL looks for this too, but takes two containers for two hosts.
        if gpu == self.stream.gpu:
            raise ChannelError(f"NCCL does not work between two processes on one GPU, {gpu}")
