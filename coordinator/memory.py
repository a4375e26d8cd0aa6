"""Memory that was freed but not given back: what glibc keeps in the arenas of gRPC's threads.

Ten thousand connections that come to nothing leave tens of MiB there, in pieces too small for glibc to return by
itself; `malloc_trim` does. Other C libraries have no such call, and nothing is done there.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from minedraft.config import MIB

LOOK_SECONDS: Final = 5.0
LONGEST_SECONDS: Final = 30.0  # between two looks when the last walk found nothing
GROWTH: Final = 4 * MIB  # over the least that was ever seen, which is worth a walk through all arenas
STATM: Final = Path("/proc/self/statm")


def trimmer() -> Callable[[], None] | None:
    """What gives free memory back to the system; None where the C library cannot or memory cannot be looked at."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is None or not STATM.exists():
        return None

    def give_back() -> None:
        trim(ctypes.c_size_t(0))  # ctypes lets go of the interpreter meanwhile

    return give_back


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def keep_small(
    give_back: Callable[[], None], measure: Callable[[], int] = resident, seconds: float = LOOK_SECONDS
) -> None:
    """For ever: give free memory back, on another thread, while the process is larger than it was. Cancel to end.

    What is in use now may be free later without a change in size, so a walk that found nothing is repeated, but later.
    """
    least, pause = measure(), seconds
    while True:
        await asyncio.sleep(pause)
        before = after = measure()
        found_nothing = False
        if before - least >= GROWTH:
            await asyncio.to_thread(give_back)
            after = measure()
            found_nothing = before - after < GROWTH
        pause = min(2 * pause, LONGEST_SECONDS) if found_nothing else seconds
        least = min(least, after)
