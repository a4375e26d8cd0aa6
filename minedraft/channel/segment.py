"""A file in shared memory, mapped by two processes. It leaves nothing behind, whoever is killed and when.

`multiprocessing.shared_memory` is not used: its tracker removes segments that other processes still need. The owner
holds a lock on the file for as long as it lives; whoever gets that lock knows that the owner is dead.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from minedraft.errors import ChannelError

PAGE: Final = 4096
NAME: Final = re.compile(r"minedraft-[0-9a-f]{32}")
UNFINISHED: Final = ".new"  # not locked yet: only old ones are swept
OLD_SECONDS: Final = 60.0


class Segment:
    """A mapped file. `bytes` is valid for as long as anybody refers to it, also after `close`."""

    def __init__(self, path: Path, fd: int, nbytes: int) -> None:
        """Takes over `fd`."""
        self.name = path.name
        self._path = path
        self._fd = fd
        # Populated, so that the first use of each page costs no fault.
        mapped = mmap.mmap(fd, nbytes, flags=mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0))
        # By way of numpy, which keeps the mapping alive; torch.frombuffer does not.
        self.bytes: Tensor = torch.from_numpy(np.frombuffer(mapped, np.uint8))  # [nbytes]

    @classmethod
    def create(cls, directory: Path, nbytes: int) -> Segment:
        """A new file of zeros, with all its memory. Raises ChannelError, with the size, when there is no room."""
        path = directory / f"minedraft-{uuid.uuid4().hex}"
        unfinished = path.with_name(path.name + UNFINISHED)
        try:
            fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ChannelError(f"no file can be made in {directory}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.posix_fallocate(fd, 0, nbytes)  # no room is an error here, not a SIGBUS later
            os.rename(unfinished, path)
            return cls(path, fd, nbytes)
        except OSError as error:
            os.close(fd)
            for left in (unfinished, path):
                left.unlink(missing_ok=True)
            raise ChannelError(
                f"{directory} has no room for {nbytes / (1 << 20):.0f} MiB ({error.strerror}): make it larger "
                "(--shm-size of a container), or give a smaller --channel-mib"
            ) from error

    @classmethod
    def open(cls, directory: Path, name: str, nbytes: int) -> Segment:
        """A file that a peer has made. Raises ChannelError."""
        if not NAME.fullmatch(name):
            raise ChannelError(f"{name[:80]!r} is not the name of a segment")
        try:
            fd = os.open(directory / name, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise ChannelError(
                f"the peer's segment is not in {directory} ({error.strerror}): give both services the same --shm-dir"
            ) from error
        found = os.fstat(fd).st_size
        if found != nbytes or nbytes == 0:
            os.close(fd)
            raise ChannelError(f"the peer's segment has {found} bytes, not {nbytes}")
        try:
            return cls(directory / name, fd, nbytes)
        except OSError as error:
            os.close(fd)
            raise ChannelError(f"the peer's segment cannot be mapped: {error}") from error

    def unlink(self) -> None:
        """Remove the name. The memory stays until both sides have let go of it."""
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the file. The mapping goes with the last tensor that views it. Called once."""
        os.close(self._fd)


def sweep(directory: Path) -> int:
    """Remove the files of owners that died before their peer had mapped them; how many."""
    removed = 0
    for path in directory.glob("minedraft-*"):
        name = path.name.removesuffix(UNFINISHED)
        if NAME.fullmatch(name) and (name == path.name or _is_old(path)) and _is_abandoned(path):
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _is_old(path: Path) -> bool:
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > OLD_SECONDS
    return False


def _is_abandoned(path: Path) -> bool:
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(fd)
    return True
