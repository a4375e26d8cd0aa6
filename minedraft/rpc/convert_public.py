"""The public face's nouns to protobuf and back, for the coordinator and for clients."""

from __future__ import annotations

from dataclasses import replace

from minedraft.errors import InvalidRequest, ProtocolError
from minedraft.generation import (
    Activity,
    Chat,
    ChatMessage,
    ChoiceInfo,
    FinishReason,
    GenerateRequest,
    LaneInfo,
    Limits,
    Output,
    PeerInfo,
    Prompt,
    ServerInfo,
    SpeculationStats,
    StepKind,
    Text,
    TimelinePage,
    TimelineStep,
    TokenIds,
    Usage,
)
from minedraft.rpc.convert import (
    DEFAULT_PARAMS,
    read_logprobs,
    read_model,
    read_sampling,
    read_state,
    read_timing,
    write_logprobs,
    write_model,
    write_sampling,
    write_state,
    write_timing,
)
from minedraft.v1 import generation_pb2 as pb

ABSENT_PARAMS = replace(DEFAULT_PARAMS, max_new_tokens=0)  # 0 becomes the server's default


def read_request(message: pb.GenerateRequest) -> GenerateRequest:
    """Raises InvalidRequest for a request without input or with an explicit length of 0."""
    if message.sampling.HasField("max_new_tokens") and message.sampling.max_new_tokens == 0:
        raise InvalidRequest("sampling.max_new_tokens", "must be at least 1")
    return GenerateRequest(
        prompt=_read_prompt(message),
        sampling=read_sampling(message.sampling, ABSENT_PARAMS),
        model=message.model,
        request_id=message.request_id,
        max_draft_tokens=message.max_draft_tokens if message.HasField("max_draft_tokens") else None,
    )


def write_request(request: GenerateRequest) -> pb.GenerateRequest:
    message = pb.GenerateRequest(
        sampling=write_sampling(request.sampling),
        model=request.model,
        request_id=request.request_id,
        max_draft_tokens=request.max_draft_tokens,
    )
    if request.sampling.max_new_tokens == 0:
        message.sampling.ClearField("max_new_tokens")
    match request.prompt:
        case Text(text):
            message.text = text
        case Chat(messages):
            message.chat.SetInParent()
            message.chat.messages.extend(pb.ChatMessage(role=turn.role, content=turn.content) for turn in messages)
        case TokenIds(ids):
            message.token_ids.SetInParent()
            message.token_ids.ids.extend(ids)
    return message


def read_output(message: pb.GenerateResponse) -> Output:
    return Output(
        request_id=message.request_id,
        text=message.text,
        token_ids=tuple(message.token_ids),
        logprobs=tuple(read_logprobs(entry) for entry in message.logprobs),
        finish_reason=_read_reason(message.finish_reason),
        usage=Usage(message.usage.prompt_tokens, message.usage.completion_tokens)
        if message.HasField("usage")
        else None,
        speculation=_read_stats(message.speculation) if message.HasField("speculation") else None,
    )


def write_output(output: Output) -> pb.GenerateResponse:
    return pb.GenerateResponse(
        request_id=output.request_id,
        text=output.text,
        token_ids=output.token_ids,
        logprobs=[write_logprobs(entry) for entry in output.logprobs],
        finish_reason=output.finish_reason.value if output.finish_reason else None,  # type: ignore[arg-type]
        usage=pb.Usage(prompt_tokens=output.usage.prompt_tokens, completion_tokens=output.usage.completion_tokens)
        if output.usage
        else None,
        speculation=_write_stats(output.speculation) if output.speculation else None,
    )


def read_server(message: pb.GetServerInfoResponse) -> ServerInfo:
    activity, limits = message.activity, message.limits
    return ServerInfo(
        version=message.version,
        target=read_model(message.target) if message.HasField("target") else None,
        drafters=tuple(_read_peer(peer) for peer in message.drafters),
        verifiers=tuple(_read_peer(peer) for peer in message.verifiers),
        lanes=tuple(
            LaneInfo(lane.lane, lane.requests, lane.rounds, lane.verifier, lane.drafter) for lane in message.lanes
        ),
        limits=Limits(
            limits.max_len,
            limits.lanes,
            limits.lane_size,
            limits.queue_size,
            limits.draft_tokens,
            limits.prefill_chunk,
        ),
        queued_requests=message.queued_requests,
        speculation=_read_stats(message.speculation),
        activity=Activity(
            activity.wall_seconds,
            activity.verifier_forward_seconds,
            activity.drafter_forward_seconds,
            activity.verifier_busy_seconds,
            activity.drafter_busy_seconds,
            activity.overlap_seconds,
            activity.verifications,
            activity.drafts,
        ),
        finished_requests=message.finished_requests,
        aborted_requests=message.aborted_requests,
        choices=tuple(_read_choice(choice) for choice in message.choices),
    )


def write_server(info: ServerInfo) -> pb.GetServerInfoResponse:
    activity, limits = info.activity, info.limits
    return pb.GetServerInfoResponse(
        version=info.version,
        target=write_model(info.target) if info.target else None,
        drafters=[_write_peer(peer) for peer in info.drafters],
        verifiers=[_write_peer(peer) for peer in info.verifiers],
        lanes=[
            pb.LaneInfo(
                lane=lane.lane, requests=lane.requests, rounds=lane.rounds, verifier=lane.verifier, drafter=lane.drafter
            )
            for lane in info.lanes
        ],
        limits=pb.Limits(
            max_len=limits.max_len,
            lanes=limits.lanes,
            lane_size=limits.lane_size,
            queue_size=limits.queue_size,
            draft_tokens=limits.draft_tokens,
            prefill_chunk=limits.prefill_chunk,
        ),
        queued_requests=info.queued_requests,
        speculation=_write_stats(info.speculation),
        activity=pb.Activity(
            wall_seconds=activity.wall_seconds,
            verifier_forward_seconds=activity.verifier_forward_seconds,
            drafter_forward_seconds=activity.drafter_forward_seconds,
            verifier_busy_seconds=activity.verifier_busy_seconds,
            drafter_busy_seconds=activity.drafter_busy_seconds,
            overlap_seconds=activity.overlap_seconds,
            verifications=activity.verifications,
            drafts=activity.drafts,
        ),
        finished_requests=info.finished_requests,
        aborted_requests=info.aborted_requests,
        choices=[_write_choice(choice) for choice in info.choices],
    )


def read_timeline(message: pb.GetTimelineResponse) -> TimelinePage:
    return TimelinePage(tuple(_read_step(step) for step in message.steps), message.newest)


def write_timeline(page: TimelinePage) -> pb.GetTimelineResponse:
    return pb.GetTimelineResponse(
        steps=[
            pb.TimelineStep(
                number=step.number,
                kind=step.kind.value,  # type: ignore[arg-type]  # the generated enum is an int at run time
                lane=step.lane,
                service=step.service,
                step_id=step.step_id,
                items=step.items,
                timing=write_timing(step.timing),
                draft_tokens=step.draft_tokens,
                accepted_tokens=step.accepted_tokens,
                received_unix_ns=step.received_unix_ns,
            )
            for step in page.steps
        ],
        newest=page.newest,
    )


def _read_step(message: pb.TimelineStep) -> TimelineStep:
    try:
        kind = StepKind(message.kind)
    except ValueError:
        raise ProtocolError(f"kind: {message.kind} is not known to this version") from None
    return TimelineStep(
        message.number,
        kind,
        message.lane,
        message.service,
        message.step_id,
        message.items,
        read_timing(message.timing),
        message.draft_tokens,
        message.accepted_tokens,
        message.received_unix_ns,
    )


def _read_prompt(message: pb.GenerateRequest) -> Prompt:
    match message.WhichOneof("input"):
        case "text":
            return Text(message.text)
        case "chat":
            return Chat(tuple(ChatMessage(turn.role, turn.content) for turn in message.chat.messages))
        case "token_ids":
            return TokenIds(tuple(message.token_ids.ids))
        case _:
            raise InvalidRequest("input", "one of text, chat and token_ids must be given")


def _read_reason(number: int) -> FinishReason | None:
    if number == pb.FINISH_REASON_UNSPECIFIED:
        return None
    try:
        return FinishReason(number)
    except ValueError:
        raise ProtocolError(f"finish_reason: {number} is not known to this version") from None


def _read_stats(message: pb.SpeculationStats) -> SpeculationStats:
    return SpeculationStats(
        rounds=message.rounds,
        drafted_rounds=message.drafted_rounds,
        draft_tokens=message.draft_tokens,
        accepted_tokens=message.accepted_tokens,
        accepted_by_position=tuple(message.accepted_by_position),
        drafted_by_position=tuple(message.drafted_by_position),
        emitted_tokens=message.emitted_tokens,
    )


def _write_stats(stats: SpeculationStats) -> pb.SpeculationStats:
    return pb.SpeculationStats(
        rounds=stats.rounds,
        drafted_rounds=stats.drafted_rounds,
        draft_tokens=stats.draft_tokens,
        accepted_tokens=stats.accepted_tokens,
        accepted_by_position=stats.accepted_by_position,
        drafted_by_position=stats.drafted_by_position,
        emitted_tokens=stats.emitted_tokens,
    )


def _read_choice(message: pb.Choice) -> ChoiceInfo:
    return ChoiceInfo(
        lanes=message.lanes,
        draft_tokens=message.draft_tokens,
        auto_lanes=message.auto_lanes,
        auto_draft_tokens=message.auto_draft_tokens,
        reason=message.reason,
        draft_seconds=message.draft_seconds,
        verify_seconds=message.verify_seconds,
        around_seconds=message.around_seconds,
        tokens_per_second=message.tokens_per_second,
        acceptance=tuple(message.acceptance),
        changes=message.changes,
        trials=message.trials,
        trial_seconds=message.trial_seconds,
    )


def _write_choice(choice: ChoiceInfo) -> pb.Choice:
    return pb.Choice(
        lanes=choice.lanes,
        draft_tokens=choice.draft_tokens,
        auto_lanes=choice.auto_lanes,
        auto_draft_tokens=choice.auto_draft_tokens,
        reason=choice.reason,
        draft_seconds=choice.draft_seconds,
        verify_seconds=choice.verify_seconds,
        around_seconds=choice.around_seconds,
        tokens_per_second=choice.tokens_per_second,
        acceptance=choice.acceptance,
        changes=choice.changes,
        trials=choice.trials,
        trial_seconds=choice.trial_seconds,
    )


def _read_peer(message: pb.PeerInfo) -> PeerInfo:
    return PeerInfo(
        address=message.address,
        connected=message.connected,
        model=read_model(message.model) if message.HasField("model") else None,
        refusal=message.refusal,
        state=read_state(message.state) if message.HasField("state") else None,
        connections=message.connections,
        channel=message.channel,
        channel_note=message.channel_note,
        channel_generation=message.channel_generation,
        payloads=message.payloads,
        payloads_replaced=message.payloads_replaced,
    )


def _write_peer(peer: PeerInfo) -> pb.PeerInfo:
    return pb.PeerInfo(
        address=peer.address,
        connected=peer.connected,
        model=write_model(peer.model) if peer.model else None,
        refusal=peer.refusal,
        state=write_state(peer.state) if peer.state else None,
        connections=peer.connections,
        channel=peer.channel,
        channel_note=peer.channel_note,
        channel_generation=peer.channel_generation,
        payloads=peer.payloads,
        payloads_replaced=peer.payloads_replaced,
    )
