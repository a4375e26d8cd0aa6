"""The coordinator without its gRPC face: requests come in, lanes run, output goes out."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

import minedraft
from coordinator.admission import Admission
from coordinator.chooser import Chooser
from coordinator.commit import Ending, cut
from coordinator.lane import Rounds
from coordinator.ports import Fleet
from coordinator.request import Request, Sink, Tally
from coordinator.site import Members, Site
from coordinator.sites import Sites
from coordinator.text import TargetText, TextStream
from coordinator.timeline import Timeline
from coordinator.validation import Rules
from minedraft.config import CoordinatorSettings
from minedraft.errors import DeadlineExceeded, InternalError, InvalidRequest, MinedraftError, PeerUnavailable
from minedraft.generation import ChoiceInfo, FinishReason, GenerateRequest, LaneInfo, Limits, ServerInfo
from minedraft.telemetry.activity import ActivityLog
from minedraft.types import AcceptanceRule, ModelInfo, SequenceParams, TokenizerFiles, Verdict, VerifyItem

if TYPE_CHECKING:
    from minedraft.telemetry.tracing import Tracer


class Coordinator:
    """Owns every committed token. All calls are made on one event loop."""

    def __init__(
        self,
        settings: CoordinatorSettings,
        fleet: Fleet,
        target: ModelInfo,
        tokenizer: TokenizerFiles,
        tracer: Tracer | None = None,
    ) -> None:
        self._settings = settings
        self._tracer = tracer
        self._fleet = fleet
        self._target = target
        self._text = TargetText(tokenizer)
        self._rules = Rules(settings, target)
        self._admission = Admission(queue_size=settings.queue_size)
        self._sites = Sites(fleet, self._admission, self._rounds, max(settings.lane_choices), settings.capacity)
        self._activity = ActivityLog()
        self.timeline = Timeline(settings.timeline_steps)
        self._tally = Tally()
        self._ids = itertools.count(1)
        self._finished = 0
        self._aborted = 0
        self._accepting = True
        self._idle = asyncio.Event()
        self._idle.set()
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Run the lanes."""
        self._sites.start()

    async def drain(self, grace_seconds: float) -> None:
        """Take no more requests, let running ones finish within the grace period, end the rest."""
        self._accepting = False
        try:
            async with asyncio.timeout(grace_seconds):
                await self._idle.wait()
        except TimeoutError:
            self._log.warning("grace period over", requests=len(self._admission.requests))
        for request in self._admission.requests:
            self._abort(request, PeerUnavailable("the server is shutting down"))

    async def stop(self) -> None:
        await self._sites.stop()

    @asynccontextmanager
    async def running(self, asked: GenerateRequest, seconds: float | None = None) -> AsyncIterator[Sink]:
        """Run a request while the context is open; leaving it early frees the request at both services at once.

        `seconds` is the client's own deadline. Raises InvalidRequest, Overloaded or PeerUnavailable on the way in, and
        DeadlineExceeded inside when time is up.
        """
        request = await self._admit(asked)
        trace = request.trace
        limit = self._settings.request_timeout_seconds
        limit = limit if seconds is None else min(seconds, limit)
        late = asyncio.get_running_loop().call_later(
            limit, self._abort, request, DeadlineExceeded(f"the request's time of {limit:g} s is up")
        )
        try:
            yield request.sink
        finally:
            late.cancel()
            self._abort(request, None)
            if trace is not None:
                ended = request.sink.ending
                trace.over(ended, request.prompt_len, request.new_tokens, failed=request.sink.failed)
            self._log.info(
                "request over",
                request_id=request.request_id,
                **({"trace_id": trace.trace_id} if trace is not None else {}),
                prompt_tokens=request.prompt_len,
                completion_tokens=request.new_tokens,
                acceptance_length=round(request.tally.stats().acceptance_length, 3),
                ended=request.sink.ending,
            )

    def info(self) -> ServerInfo:
        """The server at this moment."""
        settings = self._settings
        return ServerInfo(
            version=minedraft.__version__,
            target=self._target,
            drafters=self._fleet.describe_drafters(),
            verifiers=self._fleet.describe_verifiers(),
            lanes=tuple(_describe(members) for site, _ in self._sites for members in site.lanes),
            limits=Limits(
                max_len=self._target.max_len,
                lanes=max(settings.lane_choices),
                lane_size=settings.lane_size,
                queue_size=settings.queue_size,
                draft_tokens=max(settings.draft_token_choices),
                prefill_chunk=settings.prefill_chunk,
            ),
            queued_requests=self._admission.waiting,
            speculation=self._tally.stats(),
            activity=self._activity.summary(),
            finished_requests=self._finished,
            aborted_requests=self._aborted,
            choices=tuple(rounds.chooser.describe() for _, rounds in self._sites),
        )

    async def _admit(self, asked: GenerateRequest) -> Request:
        sampling = self._rules.check(asked)
        prompt_ids = await self._text.prompt_ids(asked.prompt)
        self._rules.check_prompt(asked, prompt_ids)
        if not self._accepting:
            raise PeerUnavailable("the server is shutting down")
        verifiers = self._fleet.describe_verifiers()
        if verifiers and all(verifier.refusal for verifier in verifiers):
            raise PeerUnavailable(verifiers[0].refusal)
        drafts = max(self._settings.draft_token_choices)
        if asked.max_draft_tokens is not None:
            drafts = min(drafts, asked.max_draft_tokens)
        longest = min(len(prompt_ids) + sampling.max_new_tokens, self._target.max_len)
        models = [verifier.info or self._target for verifier in self._fleet.verifiers] or [self._target]
        room = max(model.num_blocks * model.block_size for model in models)
        if longest > room:
            raise InvalidRequest(
                "sampling.max_new_tokens", f"prompt and output of {longest} tokens; the KV cache holds {room}"
            )
        request_id = asked.request_id or uuid.uuid4().hex
        # A seed asks for reproducible output, which must then not depend on what was drafted: rule MATCH.
        rule = AcceptanceRule.REJECTION if sampling.seed is None else AcceptanceRule.MATCH
        seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        request = Request(
            id=next(self._ids),
            request_id=request_id,
            params=SequenceParams(len(prompt_ids), seed, rule, sampling),
            committed_ids=list(prompt_ids),
            max_draft_tokens=drafts,
            max_len=self._target.max_len,
            longest=longest,
            text=TextStream(self._text, sampling.stop),
            sink=Sink(request_id),
        )
        self._admission.submit(request)
        if self._tracer is not None:
            request.trace = self._tracer.request(dict(asked.trace_headers), request_id)
        self._idle.clear()
        return request

    def _rounds(self, site: Site) -> Rounds:
        """What a verifier's lanes share."""
        return Rounds(
            admission=self._admission,
            site=site,
            activity=self._activity.beside(),
            timeline=self.timeline,
            chooser=Chooser(self._settings.lane_choices, self._settings.draft_token_choices, self._tell_choice),
            prefill_chunk=self._settings.prefill_chunk,
            commit=self._commit,
            fail=self._abort,
        )

    def _tell_choice(self, choice: ChoiceInfo) -> None:
        self._log.info(
            "choice",
            lanes=choice.lanes,
            draft_tokens=choice.draft_tokens,
            reason=choice.reason,
            draft_ms=round(1000 * choice.draft_seconds, 2),
            verify_ms=round(1000 * choice.verify_seconds, 2),
            around_ms=round(1000 * choice.around_seconds, 2),
            acceptance=[round(chance, 2) for chance in choice.acceptance[: max(choice.draft_tokens, 1)]],
        )

    def _commit(self, request: Request, item: VerifyItem, verdict: Verdict) -> None:
        """Append what a verdict emits, show what is safe to show, and end the request where it ends."""
        drafts = item.proposal.token_ids if item.proposal else ()
        if verdict.next_token_id is None or verdict.accepted_len > len(drafts):
            self._abort(request, InternalError("the verifier's verdict makes no sense"))
            return
        emitted = (*drafts[: verdict.accepted_len], verdict.next_token_id)
        if request.params.sampling.logprobs is not None and len(verdict.logprobs) != len(emitted):
            self._abort(request, InternalError("the verifier's verdict lacks log-probabilities"))
            return
        for tally in (request.tally, self._tally):
            tally.add(len(drafts), verdict.accepted_len, len(emitted))
        sampling = request.params.sampling
        committed = cut(emitted, Ending.of(sampling, self._target.eos_token_ids, request.room))
        reason, token_ids, shown = committed.finish_reason, committed.token_ids, ""
        for count, token_id in enumerate(committed.token_ids, start=1):
            if not (committed.hides_last and count == len(committed.token_ids)):
                shown += request.text.push(token_id)
            if request.text.stopped:
                reason, token_ids = FinishReason.STOP, committed.token_ids[:count]
                break
        request.committed_ids += token_ids
        logprobs = verdict.logprobs[: len(token_ids)]
        if reason is None:
            request.sink.put(shown, token_ids, logprobs)
            return
        shown += request.text.flush()
        request.finish(FinishReason.STOP if request.text.stopped else reason, shown, token_ids, logprobs)
        self._finished += 1
        self._remove(request)

    def _abort(self, request: Request, error: MinedraftError | None) -> None:
        """End a request that has not ended by itself; None when nobody listens any more."""
        if request.dead:
            return
        self._aborted += 1
        self._remove(request)
        if error is not None:
            request.sink.end(error)

    def _remove(self, request: Request) -> None:
        """Take a request out of every further step and free it at both services, behind the steps already sent."""
        request.part()
        self._admission.remove(request)
        if not self._admission.requests:
            self._idle.set()


def _describe(members: Members) -> LaneInfo:
    """A lane, for people."""
    drafter = members.drafter.describe().address if members.drafter else ""
    verifier = members.site.verifier.describe().address
    return LaneInfo(members.lane, members.load, members.rounds, verifier=verifier, drafter=drafter)
