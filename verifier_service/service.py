"""The verifier's gRPC face."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable

import grpc

from minedraft.engine.stepper import Stepper
from minedraft.errors import MinedraftError
from minedraft.rpc.convert import write_model, write_state, write_tokenizer
from minedraft.rpc.convert_steps import read_verify_items, write_verify_reply
from minedraft.rpc.server import Context
from minedraft.rpc.status import code_of
from minedraft.rpc.stream import Duties, Streams
from minedraft.types import TokenizerFiles, Verdict, VerifyItem, VerifyReply
from minedraft.v1 import common_pb2 as common
from minedraft.v1 import verifier_pb2 as pb
from minedraft.v1 import verifier_pb2_grpc as pb_grpc

FULL_NAME = pb.DESCRIPTOR.services_by_name["VerifierService"].full_name


class VerifierServicer(pb_grpc.VerifierServiceServicer):
    """Runs on the event loop; the stepper takes the work to the engine thread."""

    def __init__(self, stepper: Stepper[VerifyItem, Verdict], tokenizer: TokenizerFiles) -> None:
        self._stepper = stepper
        self._tokenizer = write_tokenizer(tokenizer)
        self._streams = Streams(Duties(pb.VerifyResponse, self._step, stepper.release, stepper.release_lease))

    def register(self, server: grpc.aio.Server) -> None:
        pb_grpc.add_VerifierServiceServicer_to_server(self, server)

    def goodbye(self, reason: str) -> None:
        self._streams.goodbye(reason)

    async def GetInfo(  # noqa: N802  # the name in the proto
        self,
        request: pb.VerifierServiceGetInfoRequest,
        context: Context,
    ) -> pb.VerifierServiceGetInfoResponse:
        state = await self._stepper.state()
        return pb.VerifierServiceGetInfoResponse(model=write_model(self._stepper.info), state=write_state(state))

    async def GetTokenizer(  # noqa: N802
        self,
        request: pb.GetTokenizerRequest,
        context: Context,
    ) -> pb.GetTokenizerResponse:
        return self._tokenizer

    async def Verify(  # noqa: N802
        self,
        request_iterator: AsyncIterator[pb.VerifyRequest],
        context: Context,
    ) -> None:
        state = await self._stepper.state()
        welcome = common.Welcome(model=write_model(self._stepper.info), state=write_state(state))
        try:
            await self._streams.serve(request_iterator, context.write, welcome)
        except MinedraftError as error:
            await context.abort(code_of(error), str(error))

    def _step(self, lease: str, step: pb.VerifyStep) -> Awaitable[pb.VerifyResponse]:
        outcome = self._stepper.step(lease, read_verify_items(step))

        async def reply() -> pb.VerifyResponse:
            done = await outcome
            return write_verify_reply(VerifyReply(step.step_id, done.results, done.timing, done.state))

        return reply()
