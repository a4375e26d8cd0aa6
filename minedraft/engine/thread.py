"""The one thread that touches torch: jobs run one at a time, in the order in which they came."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final, TypeVar

import structlog

from minedraft.errors import PeerUnavailable

T = TypeVar("T")
Job = Callable[[bool], None]  # called with False: the thread is stopping, answer without doing the work

STOPPING: Final = "the service is shutting down"


class EngineThread:
    """A FIFO of jobs and the thread that runs them. No method blocks but `join`.

    `threads` is the number of CPU threads that torch uses for work of this thread; 0 leaves torch's choice.
    """

    def __init__(self, threads: int = 0, name: str = "engine") -> None:
        self._threads = threads
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._stopping = threading.Event()
        self._gate = threading.Lock()  # nothing is queued once `stop` has begun
        self._thread = threading.Thread(target=self._run, name=name)

    def start(self) -> None:
        self._thread.start()

    def submit(self, work: Callable[[], T]) -> asyncio.Future[T]:
        """Queue work at once; the future of the running loop has its result or its exception.

        Work whose future was cancelled before its turn is skipped. Raises PeerUnavailable after `stop`; work that is
        still queued then ends with PeerUnavailable.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job(wanted: bool) -> None:
            if future.cancelled():
                return
            try:
                if not wanted:
                    raise PeerUnavailable(STOPPING)
                result = work()
            except BaseException as error:  # it travels to the caller
                failure = error  # `error` ends with this clause
                _tell(loop, lambda: _fail(future, failure))
            else:
                _tell(loop, lambda: _succeed(future, result))

        self._put(job)
        return future

    async def run(self, work: Callable[[], T]) -> T:
        """`submit`, awaited."""
        return await self.submit(work)

    def post(self, work: Callable[[], object]) -> None:
        """Queue work that nobody awaits, such as releases; a failure is logged. Ignored after `stop`."""

        def job(wanted: bool) -> None:
            if not wanted:
                return
            try:
                work()
            except Exception:
                structlog.get_logger().exception("work on the engine thread failed")

        with suppress(PeerUnavailable):
            self._put(job)

    def stop(self) -> None:
        """End after the job that is running now; those still queued are answered with PeerUnavailable."""
        with self._gate:
            self._stopping.set()
            self._jobs.put(None)
        if not self._thread.is_alive():
            self._refuse_queued()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the end, at most `timeout` seconds. Whether it has come. Blocks: not for the event loop."""
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _put(self, job: Job) -> None:
        with self._gate:
            if self._stopping.is_set():
                raise PeerUnavailable(STOPPING)
            self._jobs.put(job)

    def _run(self) -> None:
        if self._threads > 0:
            import torch

            torch.set_num_threads(self._threads)
        while not self._stopping.is_set():
            job = self._jobs.get()
            if job is not None:
                job(not self._stopping.is_set())
        self._refuse_queued()

    def _refuse_queued(self) -> None:
        with suppress(Empty):
            while True:
                job = self._jobs.get_nowait()
                if job is not None:
                    job(False)


def _tell(loop: asyncio.AbstractEventLoop, answer: Callable[[], None]) -> None:
    """Answer on the loop. A loop that is closed has nobody left to tell."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(answer)


def _succeed(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _fail(future: asyncio.Future[T], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
