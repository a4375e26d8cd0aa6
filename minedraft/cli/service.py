"""One service as a child process: started, announced, logged, restarted after a crash, stopped."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import IO, Final

from minedraft.config import environment_for_services
from minedraft.errors import InternalError, SetupError

ANNOUNCEMENT: Final = "listening "
SETUP_EXIT_CODE: Final = 2
REMEMBERED_LINES: Final = 20
FIRST_PAUSE_SECONDS: Final = 0.2
LONGEST_PAUSE_SECONDS: Final = 10.0
LAST_WORDS_SECONDS: Final = 1.0
HEALTHY_SECONDS: Final = 30.0  # a process that lived this long starts again at the shortest pause

Log = Callable[[str, str], None]
"""(service, line): takes one line of a service's log. Called from threads."""


class ServiceProcess:
    """A service in a process of its own. After `start` it is watched until `terminate` or `kill`.

    A process that crashes is started again at the same address, after a pause that doubles from 0.2 s to 10 s. Three
    threads belong to each process: one reads its stdout, one its stderr, one waits for its end.
    """

    def __init__(
        self, name: str, module: str, flags: Sequence[str], *, listen: str, log: Log, restart: bool = True
    ) -> None:
        """`module` is run with `flags`; `listen` is HOST:PORT, where port 0 takes a free one and keeps it."""
        self.name = name
        self.address = ""  # HOST:PORT, known once the process has announced it
        self.restarts = 0
        self._module = module
        self._flags = list(flags)
        self._listen = listen
        self._log = log
        self._restart = restart
        self._recent: deque[str] = deque(maxlen=REMEMBERED_LINES)
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []
        self._changed = threading.Condition()  # guards what follows
        self._announced = False
        self._stopping = False
        self._ended = False  # and will not be started again

    @property
    def pid(self) -> int | None:
        """The running process, None before the first."""
        return self._process.pid if self._process else None

    @property
    def ended(self) -> bool:
        """Whether the process is gone for good."""
        return self._ended

    @property
    def exit_code(self) -> int | None:
        """Of the last process that ended; None before. Negative: the signal that ended it."""
        return self._process.returncode if self._process else None

    def start(self) -> None:
        """Start the process and return at once."""
        self._spawn()
        threading.Thread(target=self._watch, name=f"{self.name} watch", daemon=True).start()

    def wait_announced(self, timeout: float) -> str:
        """The address once it serves. Raises SetupError when it cannot, with the service's own words."""
        with self._changed:
            self._changed.wait_for(lambda: self._announced or self._ended, timeout)
            if self._announced:
                return self.address
            if self._ended:
                raise self._failure()
        raise SetupError(f"{self.name}: not serving after {timeout:.0f} s: {self._last_words()}")

    def wait_ended(self, timeout: float) -> bool:
        """Whether the process is gone for good, waiting at most `timeout` seconds for it."""
        with self._changed:
            return self._changed.wait_for(lambda: self._ended, timeout)

    def terminate(self) -> None:
        """Ask the process to end and do not start it again."""
        self._end(subprocess.Popen.terminate)

    def kill(self) -> None:
        """End the process at once and do not start it again."""
        self._end(subprocess.Popen.kill)

    def _end(self, how: Callable[[subprocess.Popen[str]], None]) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
            if self._process is not None and not self._ended:
                how(self._process)

    def _spawn(self) -> None:
        flags = [*self._flags, "--listen", self.address or self._listen, "--announce"]
        command = [sys.executable, "-m", "minedraft.cli.tether", self._module, *flags]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # never written to: see minedraft.cli.tether
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=environment_for_services(),
            start_new_session=True,  # so that Ctrl-C reaches the parent alone, which ends the services in order
        )
        self._process = process
        self._readers = [
            threading.Thread(target=_pump, args=(stream, take), name=f"{self.name} log", daemon=True)
            for stream, take in ((process.stdout, self._take_announcement), (process.stderr, self._take_log))
        ]
        for reader in self._readers:
            reader.start()

    def _watch(self) -> None:
        """Start the process again whenever it ends, unless it was told to end or never served."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            begun = time.monotonic()
            code = self._wait_exit()
            with self._changed:
                if time.monotonic() - begun > HEALTHY_SECONDS:
                    pause = FIRST_PAUSE_SECONDS
                if self._stopping or not (self._restart and self._announced and self._wait_pause(code, pause)):
                    self._ended = True
                    self._changed.notify_all()
                    return
                self.restarts += 1
                self._spawn()
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _wait_pause(self, code: int, pause: float) -> bool:
        """Whether the process is still wanted after `pause` seconds."""
        self._log(self.name, f"ended with exit code {code}; starting it again in {pause:g} s")
        return not self._changed.wait_for(lambda: self._stopping, pause)

    def _wait_exit(self) -> int:
        if self._process is None:
            raise InternalError(f"{self.name} was not started")
        code = self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        for reader in self._readers:
            reader.join(LAST_WORDS_SECONDS)  # so that a failure can be told in the process's own words
        return code

    def _take_announcement(self, line: str) -> None:
        if line.startswith(ANNOUNCEMENT):
            with self._changed:
                self.address, self._announced = line.removeprefix(ANNOUNCEMENT), True
                self._changed.notify_all()

    def _take_log(self, line: str) -> None:
        self._recent.append(line)
        self._log(self.name, line)

    def _failure(self) -> SetupError:
        code = self._process.returncode if self._process else None
        if code == SETUP_EXIT_CODE:
            return SetupError(self._last_words())
        return SetupError(f"{self.name} ended with exit code {code} before it served: {self._last_words()}")

    def _last_words(self) -> str:
        return next((line for line in reversed(self._recent) if line.strip()), "it said nothing")


def _pump(stream: IO[str], take: Callable[[str], None]) -> None:
    with stream:
        for line in stream:
            take(line.rstrip("\n"))
