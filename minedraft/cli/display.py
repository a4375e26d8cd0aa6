"""What commands show to people. Answers and JSON go to stdout, everything else to stderr."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from rich.console import Console
from rich.text import Text

notes: Final = Console(stderr=True, soft_wrap=True, highlight=False)
STYLES: Final[Mapping[str, str]] = {"coordinator": "cyan", "drafter": "magenta", "verifier": "green"}
WIDEST: Final = max(map(len, STYLES))


def write_json(value: Any) -> None:
    """One object on one line of stdout."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def write_text(text: str) -> None:
    """A piece of an answer, at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


@contextmanager
def status(words: str) -> Iterator[Callable[[str], None]]:
    """Say on stderr what is being waited for: a spinner on a terminal, a line each elsewhere. Yields a setter."""
    if not notes.is_terminal:
        yield notes.print
        return
    with notes.status(words) as spinner:
        yield spinner.update


class LogLines:
    """The services' log lines on stderr, each behind its service's name. May be called from any thread."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()

    def __call__(self, service: str, line: str) -> None:
        prefix = Text(f"{service:<{WIDEST}} | ", style=STYLES.get(service, ""))
        with self._one_at_a_time:
            notes.print(prefix + Text.from_ansi(line), soft_wrap=True)
