"""What the gRPC faces of drafter and verifier share: their streams, and what is said at the begin of each."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Generic, TypeVar

from minedraft.channel.desk import ChannelDesk
from minedraft.channel_service import ChannelService
from minedraft.engine.stepper import Stepper
from minedraft.errors import MinedraftError
from minedraft.rpc.convert import write_model, write_state, write_welcome
from minedraft.rpc.endings import refuse
from minedraft.rpc.server import Context
from minedraft.rpc.stream import Duties, Streams
from minedraft.types import Welcome
from minedraft.v1 import common_pb2 as common

Response = TypeVar("Response")


class ModelStreams(Generic[Response]):
    """Runs on the event loop; the stepper takes the work to the engine thread."""

    def __init__(
        self,
        response: Callable[..., Response],  # DraftResponse or VerifyResponse
        stepper: Stepper[Any, Any],
        desk: ChannelDesk,
        step: Callable[[str, Any], Awaitable[Response]],  # (lease, step message): see `Duties.step`
        payload_bytes_per_draft: int = 0,
        estimates_chances: bool = False,
    ) -> None:
        self.desk = desk
        self._stepper = stepper
        self._payload_bytes = payload_bytes_per_draft
        self._estimates_chances = estimates_chances
        channels = ChannelService(response, desk)
        self._streams = Streams(
            Duties(
                response,
                step=step,
                release=stepper.release,
                begin=desk.open_lease,
                end=self._end,
                channel=channels.answer,
                chunk=channels.take,
            )
        )

    def goodbye(self, reason: str) -> None:
        """Tell every stream that it is about to end."""
        self._streams.goodbye(reason)

    async def info(self) -> dict[str, Any]:
        """The fields of a GetInfo response."""
        return {"model": write_model(self._stepper.info), "state": write_state(await self._stepper.state())}

    async def serve(self, requests: AsyncIterator[Any], context: Context) -> None:
        """Answer one stream until it ends; an error of the family ends it with its code."""
        try:
            await self._streams.serve(requests, context.write, await self._welcome())
        except MinedraftError as error:
            await refuse(context, error)

    async def _welcome(self) -> common.Welcome:
        state = await self._stepper.state()
        return write_welcome(
            Welcome(self._stepper.info, state, self.desk.facts, self._payload_bytes, self._estimates_chances)
        )

    def _end(self, lease: str) -> None:
        self._stepper.release_lease(lease)
        self.desk.end_lease(lease)
