"""Steps on the engine thread: one at a time, in the order of arrival, each with its timing.

What a model service computes is a `Worker`; the stepper runs it where torch may be touched and keeps the clock.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from minedraft.channel.step import StepChannels
from minedraft.engine.thread import EngineThread
from minedraft.types import ChannelFault, ModelInfo, ServiceState, StepTiming

Item = TypeVar("Item")
Result = TypeVar("Result")
Item_contra = TypeVar("Item_contra", contravariant=True)
Result_co = TypeVar("Result_co", covariant=True)


class Worker(Protocol[Item_contra, Result_co]):
    """A drafter or a verifier. Every method but `info` runs on the engine thread only."""

    @property
    def info(self) -> ModelInfo: ...

    def step(self, lease: str, items: Sequence[Item_contra], channels: StepChannels) -> Sequence[Result_co]:
        """One result for each item, in order."""

    def release(self, lease: str, sequence_ids: Sequence[int]) -> None: ...

    def release_lease(self, lease: str) -> None: ...

    def state(self) -> ServiceState: ...

    def take_forward_ns(self) -> int:
        """Nanoseconds in forward passes since last taken."""


@dataclass(frozen=True, slots=True)
class StepOutcome(Generic[Result]):
    """What a step gave and what it cost."""

    results: tuple[Result, ...]
    timing: StepTiming
    state: ServiceState
    channel_fault: ChannelFault | None


@dataclass(slots=True)
class StepTotals:
    """Sums over all steps. Written by the engine thread, read by any."""

    steps: int = 0
    queue_ns: int = 0
    host_ns: int = 0
    forward_ns: int = 0

    def add(self, timing: StepTiming) -> None:
        self.steps += 1
        self.queue_ns += timing.queue_ns
        self.host_ns += timing.host_ns
        self.forward_ns += timing.forward_ns


class Stepper(Generic[Item, Result]):
    """The event loop's handle on a worker. Nothing here blocks."""

    def __init__(self, thread: EngineThread, worker: Worker[Item, Result]) -> None:
        self._thread = thread
        self._worker = worker
        self.info = worker.info
        self.totals = StepTotals()
        self.on_step: Callable[[Sequence[Item], StepTiming], None] | None = None  # hears of steps, on the event loop
        self.newest_state = worker.state()  # as of the newest step; replaced by the engine thread

    def step(self, lease: str, items: Sequence[Item], channels: StepChannels) -> Awaitable[StepOutcome[Result]]:
        """Queue a step at once; await the result for its outcome."""
        received = time.perf_counter_ns()
        outcome = self._thread.submit(lambda: self._run(lease, items, channels, received))
        return outcome if self.on_step is None else _told(self.on_step, items, outcome)

    def state(self) -> Awaitable[ServiceState]:
        """What the worker holds once the steps already queued are done."""
        return self._thread.submit(self._worker.state)

    def release(self, lease: str, sequence_ids: Sequence[int]) -> None:
        """Free sequences after the steps already queued."""
        self._thread.post(lambda: self._worker.release(lease, sequence_ids))

    def release_lease(self, lease: str) -> None:
        """Free all sequences of a stream after the steps already queued."""
        self._thread.post(lambda: self._worker.release_lease(lease))

    def _run(self, lease: str, items: Sequence[Item], channels: StepChannels, received: int) -> StepOutcome[Result]:
        started, started_unix = time.perf_counter_ns(), time.time_ns()
        results = tuple(self._worker.step(lease, items, channels))
        forward = self._worker.take_forward_ns()
        host = time.perf_counter_ns() - started - forward
        timing = StepTiming(started - received, host, forward, started_unix)
        self.totals.add(timing)
        self.newest_state = self._worker.state()
        return StepOutcome(results, timing, self.newest_state, channels.fault)


async def _told(
    hear: Callable[[Sequence[Item], StepTiming], None], items: Sequence[Item], outcome: Awaitable[StepOutcome[Result]]
) -> StepOutcome[Result]:
    done = await outcome
    hear(items, done.timing)
    return done
