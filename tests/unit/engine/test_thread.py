"""The engine thread, under a real event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from functools import partial

import pytest
import torch

from minedraft.engine.thread import EngineThread
from minedraft.errors import NoSpace, PeerUnavailable


@pytest.fixture
async def thread() -> AsyncIterator[EngineThread]:
    started = EngineThread()
    started.start()
    yield started
    started.stop()
    assert await asyncio.to_thread(started.join, 10)


class Blocker:
    """Work that holds the engine thread until it is let go."""

    def __init__(self, thread: EngineThread) -> None:
        self._entered = threading.Event()
        self._leave = threading.Event()
        self.done = thread.submit(self._hold)

    def _hold(self) -> str:
        self._entered.set()
        assert self._leave.wait(10)
        return "held"

    async def entered(self) -> None:
        assert await asyncio.to_thread(self._entered.wait, 10)

    def let_go(self) -> None:
        self._leave.set()


async def test_work_runs_elsewhere_and_comes_back(thread: EngineThread) -> None:
    name = await thread.run(lambda: threading.current_thread().name)
    assert name == "engine"


async def test_first_come_first_served(thread: EngineThread) -> None:
    seen: list[int] = []
    blocker = Blocker(thread)
    waiting = [thread.submit(partial(seen.append, number)) for number in range(3)]
    thread.post(lambda: seen.append(3))
    waiting.append(thread.submit(lambda: seen.append(4)))
    blocker.let_go()
    await asyncio.gather(*waiting)
    assert seen == [0, 1, 2, 3, 4]


async def test_exceptions_travel(thread: EngineThread) -> None:
    def fail() -> None:
        raise NoSpace("nothing left")

    with pytest.raises(NoSpace, match="nothing left"):
        await thread.run(fail)
    assert await thread.run(lambda: 1) == 1


async def test_a_failing_post_does_not_end_the_thread(thread: EngineThread) -> None:
    thread.post(lambda: 1 // 0)
    assert await thread.run(lambda: 1) == 1


async def test_the_loop_goes_on_meanwhile(thread: EngineThread) -> None:
    blocker = Blocker(thread)
    await blocker.entered()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not blocker.done.done()
    blocker.let_go()
    assert await blocker.done == "held"


async def test_cancelled_work_is_skipped(thread: EngineThread) -> None:
    seen: list[str] = []
    blocker = Blocker(thread)
    unwanted = thread.submit(lambda: seen.append("unwanted"))
    wanted = thread.submit(lambda: seen.append("wanted"))
    unwanted.cancel()
    blocker.let_go()
    await wanted
    assert seen == ["wanted"]


async def test_work_cancelled_while_it_runs_is_dropped(thread: EngineThread) -> None:
    blocker = Blocker(thread)
    await blocker.entered()
    blocker.done.cancel()
    blocker.let_go()
    assert await thread.run(lambda: 1) == 1


async def test_stop_finishes_the_running_job_and_refuses_the_rest() -> None:
    thread = EngineThread()
    thread.start()
    blocker = Blocker(thread)
    await blocker.entered()
    posted: list[int] = []
    queued = thread.submit(lambda: 1)
    thread.post(lambda: posted.append(1))
    thread.stop()
    thread.post(lambda: posted.append(2))
    with pytest.raises(PeerUnavailable, match="shutting down"):
        thread.submit(lambda: 2)
    blocker.let_go()
    assert await blocker.done == "held"
    with pytest.raises(PeerUnavailable, match="shutting down"):
        await queued
    assert await asyncio.to_thread(thread.join, 10)
    assert posted == []


async def test_stop_twice_and_before_start() -> None:
    thread = EngineThread()
    queued = thread.submit(lambda: 1)
    thread.stop()
    thread.stop()
    with pytest.raises(PeerUnavailable):
        await queued
    assert thread.join(0)


def test_a_closed_loop_does_no_harm() -> None:
    thread = EngineThread()
    thread.start()
    release = threading.Event()

    async def leave_early() -> None:
        thread.submit(lambda: release.wait(10))

    asyncio.run(leave_early())
    release.set()
    seen: list[int] = []
    thread.post(lambda: seen.append(1))
    deadline = time.monotonic() + 10
    while not seen and time.monotonic() < deadline:
        time.sleep(0.001)
    thread.stop()
    assert thread.join(10)
    assert seen == [1]


async def test_threads_of_torch_are_set_on_the_thread() -> None:
    before = torch.get_num_threads()
    thread = EngineThread(threads=2)
    thread.start()
    assert await thread.run(torch.get_num_threads) == 2
    thread.stop()
    assert await asyncio.to_thread(thread.join, 10)
    torch.set_num_threads(before)
