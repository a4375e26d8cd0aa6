"""A process of the doctor's own: it does what may hang or crash, and is killed when it is late.

Commands and answers are lines of JSON over its stdin and stdout. The child's side is `serve`.
"""

from __future__ import annotations

import faulthandler
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, Self

from minedraft.cli.doctor.finding import one_line
from minedraft.config import environment_for_services
from minedraft.errors import InternalError, MinedraftError

GRACE_SECONDS: Final = 5.0  # a child whose parent cannot kill it ends itself this much later
REAP_SECONDS: Final = 5.0
CHUNK: Final = 1 << 16

Fields = dict[str, Any]


class ChildLost(MinedraftError):
    """The child was too late and was killed, or it died."""


class Child:
    """One child. After ChildLost it is of no use. For one thread."""

    def __init__(self, command: Sequence[str], pass_fds: Sequence[int] = ()) -> None:
        """`command` follows the interpreter: ("-m", module, argument...)."""
        self._last_words = tempfile.TemporaryFile()  # noqa: SIM115  # closed by `close`
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._last_words,
            pass_fds=pass_fds,
            env=environment_for_services(),
            start_new_session=True,  # Ctrl-C reaches the parent alone; and what the child starts is killed with it
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, command: Mapping[str, Any], seconds: float) -> Fields:
        """Tell, and wait for the answer. Raises ChildLost."""
        self.tell(command, seconds)
        return self.answer(seconds)

    def tell(self, command: Mapping[str, Any], seconds: float) -> None:
        """Send a command that may take so many seconds. Raises ChildLost."""
        line = json.dumps({**command, "seconds": seconds}).encode() + b"\n"
        stdin = self._process.stdin
        if stdin is None:
            raise InternalError("a child without stdin")
        try:
            stdin.write(line)
            stdin.flush()
        except (OSError, ValueError):
            raise self._died() from None

    def answer(self, seconds: float) -> Fields:
        """The next answer. Raises ChildLost, and kills the child, when none comes in time."""
        deadline = time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            stdout = self._process.stdout
            if stdout is None:
                raise InternalError("a child without stdout")
            selector.register(stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    self.close()
                    raise ChildLost(f"it hung: not done after {seconds:g} s, and its process was killed")
                piece = os.read(stdout.fileno(), CHUNK)
                if not piece:
                    raise self._died()
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        answer: Fields = json.loads(line)
        return answer

    def close(self) -> None:
        """Kill the process and what it started. May be called twice."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):  # a process in a driver's call may not even die
            self._process.wait(REAP_SECONDS)
        for stream in (self._process.stdin, self._process.stdout, self._last_words):
            if stream is not None:
                with suppress(OSError):
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _died(self) -> ChildLost:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(REAP_SECONDS)
        code = self._process.returncode
        self._last_words.seek(0)
        lines = [line for line in self._last_words.read().decode(errors="replace").splitlines() if line.strip()]
        self.close()
        how = f"by {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        return ChildLost(f"its process ended {how}: {one_line(lines[-1]) if lines else 'it said nothing'}")


def serve(act: Callable[[Fields], Fields]) -> None:
    """The child's side: answer commands until stdin ends. `act` must not raise.

    Libraries that write to stdout (NCCL's log does) reach stderr instead. A command that takes far longer than it may
    ends the process, for the case that the parent is no longer there to do it.
    """
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    for line in sys.stdin:
        command: Fields = json.loads(line)
        faulthandler.dump_traceback_later(float(command["seconds"]) + GRACE_SECONDS, exit=True)
        answer = act(command)
        faulthandler.cancel_dump_traceback_later()
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
