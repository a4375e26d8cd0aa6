"""The drafter's gRPC face."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable

import grpc

from minedraft.channel.desk import ChannelDesk
from minedraft.engine.stepper import Stepper
from minedraft.model_streams import ModelStreams
from minedraft.rpc.convert_steps import read_draft_items, write_draft_reply
from minedraft.rpc.server import Context
from minedraft.types import DraftItem, DraftReply, Proposal
from minedraft.v1 import drafter_pb2 as pb
from minedraft.v1 import drafter_pb2_grpc as pb_grpc

FULL_NAME = pb.DESCRIPTOR.services_by_name["DrafterService"].full_name


class DrafterServicer(pb_grpc.DrafterServiceServicer):
    """Runs on the event loop; the stepper takes the work to the engine thread."""

    def __init__(
        self,
        stepper: Stepper[DraftItem, Proposal],
        desk: ChannelDesk,
        payload_bytes_per_draft: int,
        *,
        estimates_chances: bool,
    ) -> None:
        self._stepper = stepper
        self._streams = ModelStreams(
            pb.DraftResponse, stepper, desk, self._step, payload_bytes_per_draft, estimates_chances
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
        return pb.DrafterServiceGetInfoResponse(**await self._streams.info())

    async def Draft(self, request_iterator: AsyncIterator[pb.DraftRequest], context: Context) -> None:  # noqa: N802
        await self._streams.serve(request_iterator, context)

    def _step(self, lease: str, step: pb.DraftStep) -> Awaitable[pb.DraftResponse]:
        channels = self._streams.desk.for_step(lease, step.channel_id)
        outcome = self._stepper.step(lease, read_draft_items(step), channels)

        async def reply() -> pb.DraftResponse:
            done = await outcome
            return write_draft_reply(
                DraftReply(step.step_id, done.results, done.timing, done.state, done.channel_fault)
            )

        return reply()
