"""Steps, replies and the other messages of the two model streams: nouns to protobuf and back."""

from __future__ import annotations

from collections.abc import Sequence

from minedraft.errors import ProtocolError
from minedraft.ranges import MOST_DRAFTS
from minedraft.rpc.convert import (
    read_logprobs,
    read_params,
    read_proposal,
    read_state,
    read_status,
    read_timing,
    write_logprobs,
    write_params,
    write_proposal,
    write_state,
    write_timing,
)
from minedraft.rpc.convert_channel import read_fault, write_fault
from minedraft.types import DraftItem, DraftReply, Proposal, Verdict, VerifyItem, VerifyReply
from minedraft.v1 import common_pb2 as common
from minedraft.v1 import drafter_pb2 as drafter
from minedraft.v1 import verifier_pb2 as verifier


def read_draft_items(step: drafter.DraftStep) -> tuple[DraftItem, ...]:
    _no_repeats([item.sequence_id for item in step.items])
    return tuple(
        DraftItem(
            sequence_id=item.sequence_id,
            base_len=item.base_len,
            tail_token_ids=_tail(item.tail_token_ids),
            params=read_params(item.params) if item.HasField("params") else None,
            max_draft_tokens=_drafts(item.max_draft_tokens),
            least_chance=_chance(item.least_chance),
            traceparent=item.traceparent,
        )
        for item in step.items
    )


def write_draft_step(step_id: int, lane: int, items: Sequence[DraftItem], channel_id: str = "") -> drafter.DraftRequest:
    return drafter.DraftRequest(
        step=drafter.DraftStep(
            step_id=step_id,
            lane=lane,
            channel_id=channel_id,
            items=[
                drafter.DraftItem(
                    sequence_id=item.sequence_id,
                    base_len=item.base_len,
                    tail_token_ids=item.tail_token_ids,
                    params=write_params(item.params) if item.params else None,
                    max_draft_tokens=item.max_draft_tokens,
                    least_chance=item.least_chance,
                    traceparent=item.traceparent,
                )
                for item in items
            ],
        )
    )


def read_verify_items(step: verifier.VerifyStep) -> tuple[VerifyItem, ...]:
    _no_repeats([item.sequence_id for item in step.items])
    return tuple(
        VerifyItem(
            sequence_id=item.sequence_id,
            base_len=item.base_len,
            tail_token_ids=_tail(item.tail_token_ids),
            params=read_params(item.params) if item.HasField("params") else None,
            proposal=_proposal(item.proposal) if item.HasField("proposal") else None,
            emit=item.emit,
            traceparent=item.traceparent,
        )
        for item in step.items
    )


def write_verify_step(step_id: int, lane: int, items: Sequence[VerifyItem]) -> verifier.VerifyRequest:
    return verifier.VerifyRequest(
        step=verifier.VerifyStep(
            step_id=step_id,
            lane=lane,
            items=[
                verifier.VerifyItem(
                    sequence_id=item.sequence_id,
                    base_len=item.base_len,
                    tail_token_ids=item.tail_token_ids,
                    params=write_params(item.params) if item.params else None,
                    proposal=write_proposal(item.proposal) if item.proposal else None,
                    emit=item.emit,
                    traceparent=item.traceparent,
                )
                for item in items
            ],
        )
    )


def read_draft_reply(message: drafter.DraftReply) -> DraftReply:
    return DraftReply(
        message.step_id,
        tuple(read_proposal(proposal) for proposal in message.proposals),
        read_timing(message.timing),
        read_state(message.state),
        read_fault(message.channel_fault) if message.HasField("channel_fault") else None,
    )


def write_draft_reply(reply: DraftReply) -> drafter.DraftResponse:
    return drafter.DraftResponse(
        reply=drafter.DraftReply(
            step_id=reply.step_id,
            proposals=[write_proposal(proposal) for proposal in reply.proposals],
            timing=write_timing(reply.timing),
            state=write_state(reply.state),
            channel_fault=write_fault(reply.channel_fault) if reply.channel_fault else None,
        )
    )


def read_verify_reply(message: verifier.VerifyReply) -> VerifyReply:
    return VerifyReply(
        message.step_id,
        tuple(_read_verdict(verdict) for verdict in message.verdicts),
        read_timing(message.timing),
        read_state(message.state),
        read_fault(message.channel_fault) if message.HasField("channel_fault") else None,
    )


def write_verify_reply(reply: VerifyReply) -> verifier.VerifyResponse:
    return verifier.VerifyResponse(
        reply=verifier.VerifyReply(
            step_id=reply.step_id,
            verdicts=[_write_verdict(verdict) for verdict in reply.verdicts],
            timing=write_timing(reply.timing),
            state=write_state(reply.state),
            channel_fault=write_fault(reply.channel_fault) if reply.channel_fault else None,
        )
    )


def _read_verdict(message: verifier.Verdict) -> Verdict:
    return Verdict(
        sequence_id=message.sequence_id,
        accepted_len=message.accepted_len,
        next_token_id=message.next_token_id if message.HasField("next_token_id") else None,
        logprobs=tuple(read_logprobs(entry) for entry in message.logprobs),
        status=read_status(message.status),
        cached_len=message.cached_len,
        reason=message.reason,
    )


def _write_verdict(verdict: Verdict) -> verifier.Verdict:
    return verifier.Verdict(
        sequence_id=verdict.sequence_id,
        accepted_len=verdict.accepted_len,
        next_token_id=verdict.next_token_id,
        logprobs=[write_logprobs(entry) for entry in verdict.logprobs],
        status=verdict.status.value,  # type: ignore[arg-type]  # the generated enum is an int at run time
        cached_len=verdict.cached_len,
        reason=verdict.reason,
    )


def _tail(token_ids: Sequence[int]) -> tuple[int, ...]:
    if not token_ids:
        raise ProtocolError("item.tail_token_ids: empty, at least one token is wanted")
    return tuple(token_ids)


def _drafts(count: int) -> int:
    if count > MOST_DRAFTS:
        raise ProtocolError(f"item.max_draft_tokens: {count}, at most {MOST_DRAFTS}")
    return count


def _chance(chance: float) -> float:
    if not 0.0 <= chance <= 1.0:
        raise ProtocolError(f"item.least_chance: {chance}, must be in [0, 1]")
    return chance


def _proposal(message: common.Proposal) -> Proposal:
    _drafts(len(message.token_ids))
    return read_proposal(message)


def _no_repeats(sequence_ids: list[int]) -> None:
    if len(set(sequence_ids)) != len(sequence_ids):
        raise ProtocolError("step.items: a sequence_id appears twice")
