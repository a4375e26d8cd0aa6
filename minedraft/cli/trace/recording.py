"""Steps as bars on one clock, and what they come to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from minedraft.generation import StepKind, TimelineStep

FAR_NS: Final = 20_000_000  # a reply that seems to take longer than this at best came from another clock


@dataclass(frozen=True, slots=True)
class Bar:
    """One step. Nanoseconds since 1970, on the coordinator's clock."""

    step: TimelineStep
    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Service:
    """A drafter or a verifier."""

    kind: StepKind
    address: str

    @property
    def name(self) -> str:
        return f"{'drafter' if self.kind is StepKind.DRAFT else 'verifier'} {self.address}"


@dataclass(frozen=True, slots=True)
class Recording:
    """Bars in the order of their beginnings."""

    bars: tuple[Bar, ...]
    shifts_ns: dict[Service, int]  # taken off the clocks of services that do not go by the coordinator's

    @classmethod
    def of(cls, steps: Iterable[TimelineStep]) -> Recording:
        """No step can end after its reply came, nor at best long before: a clock that says so is another one."""
        kept = list(steps)
        shifts: dict[Service, int] = {}
        for service in dict.fromkeys(map(service_of, kept)):
            least = min(step.received_unix_ns - step.ended_ns for step in kept if service_of(step) == service)
            shifts[service] = -least if not 0 <= least <= FAR_NS else 0
        bars = [
            Bar(step, step.started_ns - shifts[service_of(step)], step.ended_ns - shifts[service_of(step)])
            for step in kept
        ]
        return cls(
            tuple(sorted(bars, key=lambda bar: bar.begin_ns)),
            {service: shift for service, shift in shifts.items() if shift},
        )

    @property
    def services(self) -> list[Service]:
        """Drafters, then verifiers, by address."""
        return sorted({service_of(bar.step) for bar in self.bars}, key=lambda service: (service.kind, service.address))

    @property
    def begin_ns(self) -> int:
        return min(bar.begin_ns for bar in self.bars)

    @property
    def end_ns(self) -> int:
        return max(bar.end_ns for bar in self.bars)

    def within(self, begin_ns: int, end_ns: int) -> Recording:
        """What of it lies in a window, cut at its edges."""
        cut = (Bar(bar.step, max(bar.begin_ns, begin_ns), min(bar.end_ns, end_ns)) for bar in self.bars)
        return Recording(tuple(bar for bar in cut if bar.begin_ns < bar.end_ns), self.shifts_ns)

    def of_service(self, service: Service) -> list[Bar]:
        return [bar for bar in self.bars if service_of(bar.step) == service]

    def busy(self, service: Service) -> float:
        """Share of the time in which a service was in a step."""
        spans = [(bar.begin_ns, bar.end_ns) for bar in self.of_service(service)]
        return _length(_union(spans)) / max(self.end_ns - self.begin_ns, 1)

    def overlap(self) -> float:
        """Share of the time in which a drafter and a verifier were at work."""
        spans = {
            kind: _union([(bar.begin_ns, bar.end_ns) for bar in self.bars if bar.step.kind is kind])
            for kind in StepKind
        }
        both = _length(spans[StepKind.DRAFT]) + _length(spans[StepKind.VERIFY])
        either = _length(_union(spans[StepKind.DRAFT] + spans[StepKind.VERIFY]))
        return (both - either) / max(self.end_ns - self.begin_ns, 1)

    def wait_ns(self) -> int:
        """The median time between two verifications of a verifier, 0 without any."""
        gaps = sorted(
            max(0, after.begin_ns - before.end_ns)
            for service in self.services
            if service.kind is StepKind.VERIFY
            for before, after in pairwise(self.of_service(service))
        )
        return gaps[len(gaps) // 2] if gaps else 0


def service_of(step: TimelineStep) -> Service:
    return Service(step.kind, step.service)


def lane_name(lane: int) -> str:
    """A, B, ... Z, then numbers."""
    return chr(ord("A") + lane) if lane < 26 else str(lane)


def _union(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for begin, end in sorted(spans):
        if joined and begin <= joined[-1][1]:
            joined[-1] = joined[-1][0], max(end, joined[-1][1])
        else:
            joined.append((begin, end))
    return joined


def _length(spans: Sequence[tuple[int, int]]) -> int:
    return sum(end - begin for begin, end in spans)
