"""A guest in a process of its own, to be talked to and killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from minedraft.types import ChannelSpec, PayloadRef


class Guest:
    """See `tests.channel.guest`."""

    def __init__(self, spec: ChannelSpec, folder: Path) -> None:
        self._spec = spec
        text = json.dumps(
            {
                "channel_id": spec.channel_id,
                "generation": spec.generation,
                "slots": spec.slots,
                "bytes": spec.slot_bytes,
            }
        )
        command = [sys.executable, "-m", "tests.channel.guest", spec.kind.value, text, str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, do: str, **more: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **more}) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def join(self, offer: bytes) -> bytes:
        return bytes.fromhex(self.ask("join", offer=offer.hex()))

    def send(self, count: int, value: int) -> PayloadRef:
        slot, sequence = self.ask("send", count=count, value=value)
        spec = self._spec
        return PayloadRef(spec.channel_id, spec.generation, slot, sequence, count, "uint8", (count,))

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
