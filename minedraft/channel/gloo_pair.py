"""A gloo process group of two ranks without a store server: each side's address is one value, carried by hand."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from typing import Any, Final

import torch.distributed as dist
from torch import Tensor

from minedraft.channel.base import HANDSHAKE_SECONDS
from minedraft.errors import ChannelError

FOR_EVER: Final = timedelta(days=365)  # an idle receive must not time out: that would end the pair for good
TAG: Final = 0
MIN_VALUE: Final = 128  # bytes of an address as gloo of PyTorch 2 writes it: about 170
MAX_VALUE: Final = 512


class _Mailbox(dist.Store):  # type: ignore[name-defined,misc]
    """What the two ranks tell each other. gloo calls `set` and `get`, on the thread that makes the group."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = threading.Condition()  # guards what follows
        self._values: dict[str, bytes] = {}
        self._over = False

    def set(self, key: str, value: Any) -> None:
        with self._changed:
            self._values[key] = bytes(value)
            self._changed.notify_all()

    def get(self, key: str) -> bytes:
        """Raises ChannelError when nobody sets it within HANDSHAKE_SECONDS, or the pair is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._over or key in self._values, HANDSHAKE_SECONDS)
            if self._over or key not in self._values:
                raise ChannelError("the peer of a gloo channel did not answer")
            return self._values[key]

    def wait(self, keys: Any, timeout: Any = None) -> None:
        for key in keys:
            self.get(key)

    def give_up(self) -> None:
        with self._changed:
            self._over = True
            self._changed.notify_all()


class GlooPair:
    """One rank. It connects on a thread of its own as soon as both values are there."""

    def __init__(self, rank: int, host: str) -> None:
        self._rank = rank
        self._host = host
        self._mailbox = _Mailbox()
        self._done = threading.Event()
        self._group: Any = None
        self._problem = ""

    def start(self) -> bytes:
        """Begin; this rank's value. Raises ChannelError."""
        threading.Thread(target=self._connect, name="gloo connect", daemon=True).start()
        try:
            return self._mailbox.get(f"0/{self._rank}")
        except ChannelError:
            raise ChannelError(self._problem or f"gloo cannot listen on {self._host!r}") from None

    def give(self, value: bytes) -> None:
        """The other rank's value. Raises ChannelError for one that cannot be: gloo itself hardly checks it."""
        if not MIN_VALUE <= len(value) <= MAX_VALUE:
            raise ChannelError(f"gloo: {len(value)} bytes are no address")
        self._mailbox.set(f"0/{1 - self._rank}", value)

    def wait(self, seconds: float = HANDSHAKE_SECONDS) -> None:
        """Until the two are connected. Raises ChannelError."""
        if not self._done.wait(seconds) or self._group is None:
            raise ChannelError(f"gloo: {self._problem or 'the peer did not connect'}")

    def send(self, data: Tensor, seconds: float) -> None:
        """uint8 [n]. Raises ChannelError, after which the pair is of no use."""
        self._run(lambda group: group.send([data], 1 - self._rank, TAG).wait(timedelta(seconds=seconds)))

    def receive(self, data: Tensor, seconds: float | None) -> None:
        """Into uint8 [n], exactly as many bytes as are sent; None waits for ever. Raises as `send` does."""
        limit = FOR_EVER if seconds is None else timedelta(seconds=seconds)
        self._run(lambda group: group.recv([data], 1 - self._rank, TAG).wait(limit))

    def close(self) -> None:
        """Let go. The connection ends when no thread is inside a call any more; the other rank notices at once."""
        self._mailbox.give_up()
        self._group = None

    def _run(self, call: Any) -> None:
        group = self._group
        if group is None:
            raise ChannelError("the gloo channel is closed")
        try:
            call(group)
        except RuntimeError as error:
            raise ChannelError(f"gloo: {_first_line(error)}") from error

    def _connect(self) -> None:
        kind: Any = dist.ProcessGroupGloo  # partly untyped
        options = kind._Options()
        started = time.monotonic()
        try:
            options._devices = [kind.create_device(hostname=self._host)]
            options._timeout = timedelta(seconds=HANDSHAKE_SECONDS)
            options._threads = 1
            self._group = kind(self._mailbox, self._rank, 2, options)
        except Exception as error:  # gloo raises what its parts happen to
            self._problem = f"{_first_line(error)} after {time.monotonic() - started:.1f} s"
            self._mailbox.give_up()
        self._done.set()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
