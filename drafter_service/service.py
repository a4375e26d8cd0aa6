"""The drafter's gRPC face."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable

import grpc

from minedraft.channel.desk import ChannelDesk
from minedraft.channel_service import ChannelService
from minedraft.engine.stepper import Stepper
from minedraft.errors import MinedraftError
from minedraft.rpc.convert import write_model, write_state, write_welcome
from minedraft.rpc.convert_steps import read_draft_items, write_draft_reply
from minedraft.rpc.server import Context
from minedraft.rpc.status import code_of
from minedraft.rpc.stream import Duties, Streams
from minedraft.types import DraftItem, DraftReply, Proposal, Welcome
from minedraft.v1 import drafter_pb2 as pb
from minedraft.v1 import drafter_pb2_grpc as pb_grpc

FULL_NAME = pb.DESCRIPTOR.services_by_name["DrafterService"].full_name


class DrafterServicer(pb_grpc.DrafterServiceServicer):
    """Runs on the event loop; the stepper takes the work to the engine thread."""

    def __init__(self, stepper: Stepper[DraftItem, Proposal], desk: ChannelDesk, payload_bytes_per_draft: int) -> None:
        self._stepper = stepper
        self._payload_bytes = payload_bytes_per_draft
        self._channels = ChannelService(pb.DraftResponse, desk)
        self._streams = Streams(
            Duties(
                pb.DraftResponse,
                step=self._step,
                release=stepper.release,
                begin=desk.open_lease,
                end=self._end,
                channel=self._channels.answer,
                chunk=self._channels.take,
            )
        )

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_DrafterServiceServicer_to_server(self, server)

    def goodbye(self, reason: str) -> None:
        self._streams.goodbye(reason)

    async def GetInfo(  # noqa: N802  # the name in the proto
        self,
        request: pb.DrafterServiceGetInfoRequest,
        context: Context,
    ) -> pb.DrafterServiceGetInfoResponse:
        state = await self._stepper.state()
        return pb.DrafterServiceGetInfoResponse(model=write_model(self._stepper.info), state=write_state(state))

    async def Draft(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.DraftRequest],
        context: Context,
    ) -> None:
        state = await self._stepper.state()
        welcome = write_welcome(Welcome(self._stepper.info, state, self._channels.desk.facts, self._payload_bytes))
        try:
            await self._streams.serve(request_iterator, context.write, welcome)
        except MinedraftError as error:
            await context.abort(code_of(error), str(error))

    def _step(self, lease: str, step: pb.DraftStep) -> Awaitable[pb.DraftResponse]:
        channels = self._channels.desk.for_step(lease, step.channel_id)
        outcome = self._stepper.step(lease, read_draft_items(step), channels)

        async def reply() -> pb.DraftResponse:
            done = await outcome
            return write_draft_reply(
                DraftReply(step.step_id, done.results, done.timing, done.state, done.channel_fault)
            )

        return reply()

    def _end(self, lease: str) -> None:
        self._stepper.release_lease(lease)
        self._channels.desk.end_lease(lease)
