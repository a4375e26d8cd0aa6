"""How busy drafters and verifiers are, and how much of it at the same time, from the timings in their replies."""

from __future__ import annotations

import time
from collections import deque
from enum import Enum
from typing import Final

from minedraft.generation import Activity
from minedraft.types import StepTiming

REMEMBERED: Final = 256  # newest steps of each service; one can only overlap with steps that are as recent

NS: Final = 1e-9


class Role(Enum):
    """Which service a step ran on."""

    DRAFTER = "drafter"
    VERIFIER = "verifier"


class ActivityLog:
    """Sums over all steps of all services since the start: divide by the number of services for the share of each."""

    def __init__(self) -> None:
        self._started = time.perf_counter()
        self._steps = dict.fromkeys(Role, 0)
        self._forward_ns = dict.fromkeys(Role, 0)
        self._busy_ns = dict.fromkeys(Role, 0)
        self._overlap_ns = 0

    def beside(self) -> VerifierActivity:
        """A log of one more verifier and of who drafts for it."""
        return VerifierActivity(self)

    def add(self, role: Role, timing: StepTiming, overlap_ns: int) -> None:
        """Count one step, and for how much of it the other service worked too."""
        self._steps[role] += 1
        self._forward_ns[role] += timing.forward_ns
        self._busy_ns[role] += timing.host_ns + timing.forward_ns
        self._overlap_ns += overlap_ns

    def summary(self) -> Activity:
        return Activity(
            wall_seconds=time.perf_counter() - self._started,
            verifier_forward_seconds=self._forward_ns[Role.VERIFIER] * NS,
            drafter_forward_seconds=self._forward_ns[Role.DRAFTER] * NS,
            verifier_busy_seconds=self._busy_ns[Role.VERIFIER] * NS,
            drafter_busy_seconds=self._busy_ns[Role.DRAFTER] * NS,
            overlap_seconds=self._overlap_ns * NS,
            verifications=self._steps[Role.VERIFIER],
            drafts=self._steps[Role.DRAFTER],
        )


class VerifierActivity:
    """Steps of one verifier and of those who draft for its lanes. Overlap compares the services' clocks, so it needs
    synchronised hosts."""

    def __init__(self, log: ActivityLog) -> None:
        self._log = log
        self._recent: dict[Role, deque[tuple[int, int]]] = {role: deque(maxlen=REMEMBERED) for role in Role}

    def record(self, role: Role, timing: StepTiming) -> None:
        """Count one step. Each pair of steps that overlap is counted when the later of the two is recorded."""
        begin, end = timing.started_unix_ns, timing.started_unix_ns + timing.host_ns + timing.forward_ns
        other = Role.VERIFIER if role is Role.DRAFTER else Role.DRAFTER
        overlap_ns = 0
        for others_begin, others_end in reversed(self._recent[other]):
            if others_end <= begin:
                break
            overlap_ns += max(0, min(end, others_end) - max(begin, others_begin))
        self._recent[role].append((begin, end))
        self._log.add(role, timing, overlap_ns)
