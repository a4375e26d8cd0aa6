"""The channel ends that a model service holds, by stream: made by handshake, tried, used, closed with the stream."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Final

import torch

from minedraft.channel.base import ChannelEnd, ReceiverEnd, SenderEnd
from minedraft.channel.desk import SendChunk
from minedraft.channel.inline import InlineReceiver
from minedraft.channel.place import Place, host_facts, make_receiver, make_sender
from minedraft.channel.step import StepChannels
from minedraft.errors import ChannelError
from minedraft.types import ChannelAction, ChannelAnswer, ChannelRequest, ChannelRole, PayloadChunk, PayloadRef

PROBE_BYTES: Final = 4096  # of a probe at most
MOST_CHANNELS: Final = 8  # of one stream: a coordinator has one, and another while it is renewed


class Ends:
    """All ends of one service: a `ChannelDesk`."""

    def __init__(self, place: Place) -> None:
        self.facts = host_facts(place)
        self._place = place
        self._lock = threading.Lock()  # guards the dictionary, never held while an end works
        self._leases: dict[str, dict[str, ChannelEnd]] = {}

    def open_lease(self, lease: str) -> None:
        with self._lock:
            self._leases[lease] = {}

    def end_lease(self, lease: str) -> None:
        with self._lock:
            ends = self._leases.pop(lease, {})
        for end in ends.values():
            end.close()

    def act(self, lease: str, request: ChannelRequest, send: SendChunk) -> ChannelAnswer:
        match request.action:
            case ChannelAction.OFFER:
                return ChannelAnswer(self._make(lease, request, send).offer())
            case ChannelAction.JOIN:
                return ChannelAnswer(self._make(lease, request, send).join(request.data))
            case ChannelAction.SEAL:
                self._end(lease, request).seal(request.data)
                return ChannelAnswer()
            case ChannelAction.PROBE_WRITE:
                return ChannelAnswer(reference=self._write(lease, request))
            case ChannelAction.PROBE_READ:
                return ChannelAnswer(self._read(lease, request))
            case ChannelAction.CLOSE:
                self._close(lease, request)
                return ChannelAnswer()

    def for_step(self, lease: str, channel_id: str = "") -> StepChannels:
        with self._lock:
            ends = dict(self._leases.get(lease, {}))
        sender = ends.get(channel_id)
        return StepChannels(
            sender if isinstance(sender, SenderEnd) else None,
            {name: end for name, end in ends.items() if isinstance(end, ReceiverEnd)},
        )

    def take(self, lease: str, chunk: PayloadChunk) -> None:
        with self._lock:
            end = self._leases.get(lease, {}).get(chunk.channel_id)
        if isinstance(end, InlineReceiver):
            with suppress(ChannelError):  # nobody gets this payload, which is noticed when it is asked for
                end.take(chunk)

    def _make(self, lease: str, request: ChannelRequest, send: SendChunk) -> ChannelEnd:
        spec = request.spec
        end: ChannelEnd
        if request.role is ChannelRole.SENDER:
            end = make_sender(spec, self._place, send)
        else:
            end = make_receiver(spec, self._place)
        with self._lock:
            ends = self._leases.get(lease)
            full = ends is not None and len(ends) >= MOST_CHANNELS and spec.channel_id not in ends
            if full:
                ends = None
            former = ends.get(spec.channel_id) if ends is not None else None
            if ends is not None:
                ends[spec.channel_id] = end
        if former is not None:
            former.close()
        if ends is None:
            end.close()
            raise ChannelError(f"{MOST_CHANNELS} channels are open, at most" if full else "the stream is over")
        return end

    def _end(self, lease: str, request: ChannelRequest) -> ChannelEnd:
        with self._lock:
            end = self._leases.get(lease, {}).get(request.spec.channel_id)
        if end is None or end.spec.generation != request.spec.generation:
            raise ChannelError(f"channel {request.spec.channel_id}, generation {request.spec.generation} is not open")
        return end

    def _write(self, lease: str, request: ChannelRequest) -> PayloadRef:
        """Send the probe. Its slot stays taken: a channel has one slot more than payloads."""
        sender = self._end(lease, request)
        if not isinstance(sender, SenderEnd):
            raise ChannelError("a receiver cannot send a probe")
        slot = sender.acquire()
        if slot is None or len(request.data) > min(PROBE_BYTES, sender.spec.slot_bytes):
            raise ChannelError("no room for the probe")
        sender.write(slot, torch.tensor(list(request.data), dtype=torch.uint8))
        return sender.publish(slot, torch.uint8, (len(request.data),))

    def _read(self, lease: str, request: ChannelRequest) -> bytes:
        receiver = self._end(lease, request)
        if not isinstance(receiver, ReceiverEnd) or request.reference is None:
            raise ChannelError("a probe is read by a receiver, from a reference")
        seen = receiver.receive(request.reference).cpu().numpy().tobytes()
        receiver.release(request.reference)
        return seen

    def _close(self, lease: str, request: ChannelRequest) -> None:
        with self._lock:
            end = self._leases.get(lease, {}).pop(request.spec.channel_id, None)
        if end is not None:
            end.close()
