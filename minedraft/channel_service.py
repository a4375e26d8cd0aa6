"""The tensor channels of a model service as its streams see them: from messages to the desk and back."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from minedraft.channel.desk import ChannelDesk, NoChannels
from minedraft.config import MIB, EngineSettings
from minedraft.errors import ChannelError
from minedraft.rpc.convert_channel import (
    carries_chunks,
    read_channel_request,
    read_chunk,
    write_channel_answer,
    write_chunk,
)
from minedraft.types import ChannelAnswer, PayloadChunk
from minedraft.v1 import common_pb2 as common

Response = TypeVar("Response")

ANY_ADDRESS: Final = {"", "0.0.0.0", "::", "[::]"}  # noqa: S104  # where one listens, not where one is called


class ChannelService(Generic[Response]):
    """Runs on the event loop; handshakes run in helper threads, so that no step waits for them."""

    def __init__(self, response: Callable[..., Response], desk: ChannelDesk) -> None:
        self.desk = desk
        self._response = response
        self._sends_chunks = carries_chunks(response)

    async def answer(self, lease: str, message: common.ChannelRequest, post: Callable[[Response], None]) -> Response:
        """See `minedraft.rpc.stream.Duties.channel`."""
        request = read_channel_request(message)

        def send(chunk: PayloadChunk) -> None:
            if not self._sends_chunks:
                raise ChannelError("this service sends no payloads over its stream")
            post(self._response(chunk=write_chunk(chunk)))

        answer: ChannelAnswer | ChannelError
        try:
            answer = await asyncio.to_thread(self.desk.act, lease, request, send)
        except ChannelError as error:
            answer = error
        return self._response(channel=write_channel_answer(message.request_id, answer))

    def take(self, lease: str, message: common.PayloadChunk) -> None:
        """See `minedraft.rpc.stream.Duties.chunk`."""
        self.desk.take(lease, read_chunk(message))


def open_desk(settings: EngineSettings, device: str) -> ChannelDesk:
    """The desk of a service whose model runs on `device`; "" for a service without a model, which has no channels."""
    if not device:
        return NoChannels()
    import torch

    from minedraft.channel.ends import Ends
    from minedraft.channel.place import Place

    host = settings.channel_host or settings.listen.rpartition(":")[0]
    if host in ANY_ADDRESS:
        host = socket.gethostname()
    return Ends(Place(settings.shm_dir, host, torch.device(device), settings.max_channel_mib * MIB))
