"""A channel on trial between two processes: opened, and used to send payloads that are checked and timed.

Each process holds one end. The two talk over a socket pair in the place of the coordinator: the handshake, the
references and the chunks of an inline channel go there. `minedraft.cli.doctor.channels` starts the processes, tells
each what to do by `act`, and kills them when they are late.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from torch import Tensor

from minedraft.channel.base import HANDSHAKE_SECONDS, ReceiverEnd
from minedraft.channel.inline import InlineReceiver
from minedraft.channel.place import Place, host_facts, make_receiver, make_sender
from minedraft.errors import ChannelError
from minedraft.types import ChannelKind, ChannelSpec, PayloadChunk, PayloadRef

SMALL_BYTES: Final = 64 << 10  # latency is told for this
LARGE_BYTES: Final = 8 * 5 * 152_064 * 2  # 12 MB: dense laws of 8 sequences, 5 drafts, a vocabulary of 152,064, 16 bits
WARM_UPS: Final = 3  # payloads of each size that are not measured
ROUNDS: Final[Mapping[int, int]] = {SMALL_BYTES: 40, LARGE_BYTES: 10}
SLOTS: Final = 2
GUEST_FACTOR: Final = 4  # an end waits so many handshakes for the other's next word
FRAME: Final = struct.Struct(">II")  # bytes of the JSON, bytes of the data after it

Fields = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Timing:
    """What payloads of one size took, from the sender's write until the receiver had the tensor."""

    nbytes: int
    median_seconds: float


class OtherFailed(ChannelError):
    """The other end failed. Its own words are the ones to tell."""


class Wire:
    """Messages between the two ends: JSON and bytes, each with its length in front."""

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(GUEST_FACTOR * HANDSHAKE_SECONDS)
        self._connection = connection

    def send(self, fields: Mapping[str, Any], data: bytes = b"") -> None:
        """Raises OtherFailed when nobody is there."""
        text = json.dumps(fields).encode()
        try:
            self._connection.sendall(FRAME.pack(len(text), len(data)) + text + data)
        except OSError as error:
            raise OtherFailed(f"the other process does not read: {error}") from error

    def receive(self) -> tuple[Fields, bytes]:
        """The next message. Raises OtherFailed when the other end failed, ended, or is late."""
        text_bytes, data_bytes = FRAME.unpack(self._exactly(FRAME.size))
        fields: Fields = json.loads(self._exactly(text_bytes))
        data = self._exactly(data_bytes)
        if "failed" in fields:
            raise OtherFailed(str(fields["failed"]))
        return fields, data

    def data(self) -> bytes:
        """The data of the next message."""
        return self.receive()[1]

    def _exactly(self, count: int) -> bytes:
        parts = []
        while count:
            try:
                part = self._connection.recv(count)
            except OSError as error:
                raise OtherFailed(f"the other process said nothing: {error}") from error
            if not part:
                raise OtherFailed("the other process ended")
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def spec_of(kind: ChannelKind) -> ChannelSpec:
    """The channel on trial."""
    return ChannelSpec("trial", 1, kind, SLOTS, LARGE_BYTES)


def send_all(spec: ChannelSpec, place: Place, wire: Wire) -> None:
    """The guest's part: join, then send each payload and wait until it was read. Raises ChannelError."""
    sender = make_sender(spec, place, lambda chunk: wire.send({"chunk": _chunk_fields(chunk)}, chunk.data))
    try:
        wire.send({}, sender.join(wire.data()))
        wire.receive()  # it is open
        for nbytes, rounds in ROUNDS.items():
            payloads = [pattern.to(place.device) for pattern in _patterns(nbytes)]
            _settle(place.device)
            for turn in range(WARM_UPS + rounds):
                slot = sender.acquire()
                if slot is None:
                    raise ChannelError("no slot is free, although each was given back")
                began = time.monotonic_ns()
                sender.write(slot, payloads[turn % 2])
                ref = sender.publish(slot, torch.uint8, (nbytes,))
                wire.send({"ref": asdict(ref), "began": began})
                wire.receive()  # it was read
                sender.reclaim(slot)
    finally:
        sender.close()


def receive_all(spec: ChannelSpec, place: Place, wire: Wire) -> list[Timing]:
    """The owner's part: offer, then read and check each payload. Raises ChannelError."""
    receiver = make_receiver(spec, place)
    try:
        wire.send({}, receiver.offer())
        receiver.seal(wire.data())
        wire.send({})
        return [_receive_size(receiver, nbytes, rounds, wire) for nbytes, rounds in ROUNDS.items()]
    finally:
        receiver.close()


def _receive_size(receiver: ReceiverEnd, nbytes: int, rounds: int, wire: Wire) -> Timing:
    expected = _patterns(nbytes)
    took = []
    for turn in range(WARM_UPS + rounds):
        ref, began = _next_reference(receiver, wire)
        tensor = receiver.receive(ref)
        took.append(time.monotonic_ns() - began)  # one clock for all processes of a Linux machine
        if expected[turn % 2].device != tensor.device:
            expected = [pattern.to(tensor.device) for pattern in expected]
        if not torch.equal(tensor, expected[turn % 2]):
            raise ChannelError("other bytes came than were sent")
        del tensor
        receiver.release(ref)
        wire.send({})
    return Timing(nbytes, median(took[WARM_UPS:]) / 1e9)


def _next_reference(receiver: ReceiverEnd, wire: Wire) -> tuple[PayloadRef, int]:
    """The next payload's reference, and when its sender began, after the chunks that may come before it."""
    fields, data = wire.receive()
    while "chunk" in fields:
        if isinstance(receiver, InlineReceiver):
            receiver.take(PayloadChunk(**fields["chunk"], data=data))
        fields, data = wire.receive()
    ref = fields["ref"]
    return PayloadRef(**{**ref, "shape": tuple(ref["shape"])}), int(fields["began"])


def _chunk_fields(chunk: PayloadChunk) -> Fields:
    return {name: value for name, value in asdict(chunk).items() if name != "data"}


def _patterns(nbytes: int) -> list[Tensor]:
    """Two payloads that differ, the same in every process: uint8 [nbytes]."""
    return [
        torch.randint(256, (nbytes,), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 2)
    ]


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def act(command: Fields, wire: Wire) -> Fields:
    """Do one command, `facts`, `send` or `receive`. Never raises: what fails is told to both sides.

    The answer has `facts`, or `timings` (of the receiver), or `failed` with the reason, and `by_other` when the reason
    is the other end's.
    """
    try:
        place = Place(Path(command["directory"]), command["host"], torch.device(command["device"]))
        if command["do"] == "facts":
            facts = asdict(host_facts(place))
            return {"facts": facts | {"kinds": [kind.value for kind in facts["kinds"]]}}
        spec = spec_of(ChannelKind(command["kind"]))
        if command["do"] == "send":
            send_all(spec, place, wire)
            return {"timings": []}
        return {"timings": [asdict(timing) for timing in receive_all(spec, place, wire)]}
    except OtherFailed as error:
        return {"failed": str(error), "by_other": True}
    except Exception as error:  # anything that a library happens to raise is this end's failure
        reason = str(error) if isinstance(error, ChannelError) else f"{type(error).__name__}: {error}"
        reason = " ".join(reason.split())[:300]
        with suppress(OtherFailed):  # it is gone: then it needs no word
            wire.send({"failed": reason})
        return {"failed": reason, "by_other": False}
