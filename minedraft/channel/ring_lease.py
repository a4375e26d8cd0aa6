"""Whether the other process still uses a ring: an advisory lock on a file that has no name.

cuda.h forbids to free an exported allocation before every importer has closed it, and `close` must not wait for the
peer. So the guest holds a shared lock from before it opens the memory until after it has closed it, and the owner frees
the memory under the exclusive lock. The kernel drops the locks of a killed process. The file is a memfd, reached by
/proc/PID/fd/N: nothing is left behind anywhere. Both sides must see each other's processes, as CUDA IPC needs anyway.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from minedraft.errors import ChannelError


@dataclass(frozen=True, slots=True)
class LeaseAddress:
    """Where the guest finds the lock."""

    pid: int  # of the owner
    fd: int  # in the owner
    name: str


class RingLease:
    """The owner's side."""

    def __init__(self, name: str) -> None:
        """Raises ChannelError."""
        try:
            self._fd = os.memfd_create(name, os.MFD_CLOEXEC)
        except OSError as error:
            raise ChannelError(f"no file for the lock of {name}: {error}") from error
        self.address = LeaseAddress(os.getpid(), self._fd, name)

    def when_vacant(self, action: Callable[[], None]) -> None:
        """Call `action` once no guest holds the lease, and let none in after: at once, or on a thread of its own,
        which ends with the process. To be called once. Never raises."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            with suppress(RuntimeError):  # the interpreter is shutting down: the process's end frees everything
                threading.Thread(target=self._wait, args=(action,), name="ring-lease", daemon=True).start()
            return
        self._finish(action)

    def _wait(self, action: Callable[[], None]) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        self._finish(action)

    def _finish(self, action: Callable[[], None]) -> None:
        try:
            action()
        finally:
            os.close(self._fd)


def take_lease(address: LeaseAddress) -> int:
    """The guest's side: a file descriptor that holds the lease until it is closed. Raises ChannelError."""
    path = f"/proc/{address.pid}/fd/{address.fd}"
    try:
        if os.readlink(path) != f"/memfd:{address.name} (deleted)":
            raise ChannelError(f"the owner's ring {address.name} is gone")
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ChannelError(
            f"process {address.pid} is gone or not to be seen from here, and CUDA IPC needs one PID namespace: {error}"
        ) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise ChannelError(f"the owner has closed the ring {address.name}") from error
    return fd
