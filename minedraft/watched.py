"""Files that an operator replaces while a process runs: noticed by their time, size and inode."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import structlog

from minedraft.errors import SetupError

Version: TypeAlias = tuple[tuple[int, int, int], ...]


def version_of(paths: Sequence[Path]) -> Version:
    """What is another value once one of the files has been written or replaced. Raises OSError."""
    found = [os.stat(path) for path in paths]  # follows links: Kubernetes replaces a secret by turning a link
    return tuple((status.st_mtime_ns, status.st_size, status.st_ino) for status in found)


def readable(flag: str, path: Path) -> bytes:
    """The file's bytes. Raises SetupError, with the flag and without a byte of the content."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise SetupError(f"{flag}: {path} cannot be read: {error.strerror}") from None


def warn_if_others_read(flag: str, path: Path) -> None:
    """One log line for a secret that every user of the machine may read."""
    if os.stat(path).st_mode & stat.S_IROTH:
        structlog.get_logger().warning(
            "a secret file can be read by EVERY user of this machine: chmod o-rwx", flag=flag, file=str(path)
        )
