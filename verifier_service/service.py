"""The verifier's gRPC face."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable

import grpc

from minedraft.channel.desk import ChannelDesk
from minedraft.engine.stepper import Stepper
from minedraft.model_streams import ModelStreams
from minedraft.rpc.convert import write_tokenizer
from minedraft.rpc.convert_steps import read_verify_items, write_verify_reply
from minedraft.rpc.server import Context
from minedraft.types import TokenizerFiles, Verdict, VerifyItem, VerifyReply
from minedraft.v1 import verifier_pb2 as pb
from minedraft.v1 import verifier_pb2_grpc as pb_grpc

FULL_NAME = pb.DESCRIPTOR.services_by_name["VerifierService"].full_name


class VerifierServicer(pb_grpc.VerifierServiceServicer):
    """Runs on the event loop; the stepper takes the work to the engine thread."""

    def __init__(self, stepper: Stepper[VerifyItem, Verdict], desk: ChannelDesk, tokenizer: TokenizerFiles) -> None:
        self._stepper = stepper
        self._tokenizer = write_tokenizer(tokenizer)
        self._streams = ModelStreams(pb.VerifyResponse, stepper, desk, self._step)

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_VerifierServiceServicer_to_server(self, server)

    def goodbye(self, reason: str) -> None:
        self._streams.goodbye(reason)

    async def GetInfo(  # noqa: N802  # the name in the proto
        self,
        request: pb.VerifierServiceGetInfoRequest,
        context: Context,
    ) -> pb.VerifierServiceGetInfoResponse:
        return pb.VerifierServiceGetInfoResponse(**await self._streams.info())

    async def GetTokenizer(  # noqa: N802
        self,
        request: pb.GetTokenizerRequest,
        context: Context,
    ) -> pb.GetTokenizerResponse:
        return self._tokenizer

    async def Verify(self, request_iterator: AsyncIterator[pb.VerifyRequest], context: Context) -> None:  # noqa: N802
        await self._streams.serve(request_iterator, context)

    def _step(self, lease: str, step: pb.VerifyStep) -> Awaitable[pb.VerifyResponse]:
        channels = self._streams.desk.for_step(lease)
        outcome = self._stepper.step(lease, read_verify_items(step), channels)

        async def reply() -> pb.VerifyResponse:
            done = await outcome
            return write_verify_reply(
                VerifyReply(step.step_id, done.results, done.timing, done.state, done.channel_fault)
            )

        return reply()
