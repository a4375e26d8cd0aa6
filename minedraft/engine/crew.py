"""The worker processes of a tensor-parallel model, as rank 0 keeps them: started, told, watched, ended.

Orders go through each worker's stdin, so that a worker that has nothing to do waits without a time limit, and learns at
once that rank 0 is gone, however it ended: the system closes the pipe. A worker that ends breaks the group for good, so
rank 0 ends too and says why; whoever watches rank 0 starts both again.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Final, NoReturn

import structlog

from minedraft.config import environment_for_services
from minedraft.engine.station import FAILED, LOCAL_RANK, MODULE, Station
from minedraft.errors import InternalError, SetupError
from minedraft.model.orders import Order, encode

FAILURE_EXIT_CODE: Final = 1
LAST_WORDS_SECONDS: Final = 2.0  # a failed pass waits this long for a worker's end to explain it
END_SECONDS: Final = 5.0


class Worker:
    """One worker process. Two threads may use it: the engine's sends, its own watches."""

    def __init__(self, station: Station, gone: Callable[[str], None]) -> None:
        """Starts the process. `gone` is called once with the reason when it has ended; on a thread of its own."""
        self.rank = station.rank
        self._changed = threading.Condition()  # guards what follows
        self._said: set[str] = set()
        self._last_words = ""
        self._ended = False
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE, station.to_argument()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment_for_services() | {LOCAL_RANK: str(station.rank)},
            start_new_session=True,  # so that Ctrl-C reaches rank 0 alone, which ends the others in order
            bufsize=0,
        )
        if self._process.stdin is None or self._process.stdout is None:
            raise InternalError("a worker was started without pipes")
        self._orders, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._orders.fileno(), False)
        self._watcher = threading.Thread(target=self._watch, args=(gone,), name=f"rank {self.rank}", daemon=True)
        self._watcher.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_said(self, line: str, timeout: float) -> None:
        """Return once it has said the line. Raises SetupError when it ends before, or is too late."""
        with self._changed:
            self._changed.wait_for(lambda: line in self._said or self._ended, timeout)
            if line in self._said:
                return
            ended = self._ended
        if not ended:
            raise SetupError(f"--tensor-parallel: rank {self.rank} was not {line} after {timeout:.0f} s")
        raise SetupError(f"--tensor-parallel: {self.end()}")

    def send(self, data: memoryview, timeout: float) -> None:
        """Write to its stdin. Raises OSError when it is gone, TimeoutError when it has not read for that long."""
        poll = select.poll()
        poll.register(self._orders.fileno(), select.POLLOUT)
        while data:
            if not poll.poll(timeout * 1000):
                raise TimeoutError(f"rank {self.rank} has not read its orders for {timeout:g} s")
            data = data[os.write(self._orders.fileno(), data) :]

    def end(self) -> str:
        """How it ended, in words."""
        code = self._process.poll()
        how = f"was killed by {signal.Signals(-code).name}" if code and code < 0 else f"ended with exit code {code}"
        return f"rank {self.rank} (process {self.pid}) {how}" + (f": {self._last_words}" if self._last_words else "")

    def hang_up(self) -> None:
        """Close its stdin, which ends it."""
        self._orders.close()

    def kill(self) -> None:
        self._process.kill()

    def wait(self, timeout: float) -> None:
        """Return once it is gone; it is killed when that takes longer than `timeout` seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._watcher.join(timeout)

    def _watch(self, gone: Callable[[str], None]) -> None:
        _read_lines(self._answers, self._take)
        self._process.wait()
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        gone(self.end())

    def _take(self, line: str) -> None:
        with self._changed:
            self._said.add(line)
            if line.startswith(FAILED):
                self._last_words = line.removeprefix(FAILED)
            self._changed.notify_all()


class Crew:
    """All workers: the `Peers` of rank 0. `exit` ends this process with a code, and does not return."""

    def __init__(self, stations: Sequence[Station], exit: Callable[[int], NoReturn] = os._exit) -> None:
        self._timeout = min(station.timeout_seconds for station in stations)
        self._exit = exit
        self._failing = threading.Lock()  # held for good by the thread that ends the process
        self._closing = threading.Event()
        self._serving = False
        self._workers: list[Worker] = []
        for station in stations:
            self._workers.append(Worker(station, self._gone))

    @property
    def pids(self) -> list[int]:
        return [worker.pid for worker in self._workers]

    def wait_said(self, line: str, timeout: float) -> None:
        """Return once every worker has said the line. Raises SetupError in the words of the one that did not."""
        for worker in self._workers:
            worker.wait_said(line, timeout)

    def tell(self, order: Order) -> None:
        """See `Peers.tell`."""
        numbers = encode(order)
        data = memoryview(len(numbers).to_bytes(8, "little") + numbers.astype("<i8", copy=False).tobytes())
        for worker in self._workers:
            try:
                worker.send(data, self._timeout)
            except OSError as error:  # TimeoutError is one
                self.fail(f"rank {worker.rank} cannot be told: {error}")

    def fail(self, reason: str) -> NoReturn:
        """See `Peers.fail`. The end of a worker, when that is behind it, is told in its place."""
        time.sleep(LAST_WORDS_SECONDS)
        self._end_process(reason)

    def close(self) -> None:
        """End all workers; their end does not end this process any more."""
        self._closing.set()
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            worker.wait(END_SECONDS)

    def serve(self) -> None:
        """From now on a worker's end ends this process at once: before, the thread that loads may still say why."""
        self._serving = True

    def _gone(self, reason: str) -> None:
        if not self._serving:
            self._closing.wait(LAST_WORDS_SECONDS)
        if not self._closing.is_set():
            self._end_process(reason)

    def _end_process(self, reason: str) -> NoReturn:
        self._failing.acquire()
        structlog.get_logger().critical(
            "the ranks of the model are out of step, so this process ends; it must be started again", reason=reason
        )
        for worker in self._workers:
            worker.kill()  # one that was stopped would not notice the end of the pipe
        self._exit(FAILURE_EXIT_CODE)


def _read_lines(stream: IO[bytes], take: Callable[[str], None]) -> None:
    with stream:
        pending = b""
        while data := os.read(stream.fileno(), 4096):
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                take(line.decode(errors="replace").strip())
