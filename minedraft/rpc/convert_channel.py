"""Tensor channels on the wire: requests, references, chunks and host facts, to protobuf and back."""

from __future__ import annotations

from typing import Any, Final

from minedraft.errors import ChannelError, ProtocolError
from minedraft.types import (
    ChannelAction,
    ChannelAnswer,
    ChannelFault,
    ChannelKind,
    ChannelRequest,
    ChannelRole,
    ChannelSpec,
    HostFacts,
    PayloadChunk,
    PayloadRef,
)
from minedraft.v1 import common_pb2 as common

KINDS: Final[dict[int, ChannelKind]] = {
    common.CHANNEL_KIND_INLINE: ChannelKind.INLINE,
    common.CHANNEL_KIND_SHM: ChannelKind.SHM,
    common.CHANNEL_KIND_GLOO: ChannelKind.GLOO,
    common.CHANNEL_KIND_CUDA_IPC: ChannelKind.CUDA_IPC,
    common.CHANNEL_KIND_NCCL: ChannelKind.NCCL,
}
ROLES: Final[dict[int, ChannelRole]] = {
    common.CHANNEL_ROLE_SENDER: ChannelRole.SENDER,
    common.CHANNEL_ROLE_RECEIVER: ChannelRole.RECEIVER,
}
ACTIONS: Final[dict[int, ChannelAction]] = {
    common.CHANNEL_ACTION_OFFER: ChannelAction.OFFER,
    common.CHANNEL_ACTION_JOIN: ChannelAction.JOIN,
    common.CHANNEL_ACTION_SEAL: ChannelAction.SEAL,
    common.CHANNEL_ACTION_PROBE_WRITE: ChannelAction.PROBE_WRITE,
    common.CHANNEL_ACTION_PROBE_READ: ChannelAction.PROBE_READ,
    common.CHANNEL_ACTION_CLOSE: ChannelAction.CLOSE,
}
KIND_NUMBERS: Final[dict[ChannelKind, Any]] = {kind: number for number, kind in KINDS.items()}
ROLE_NUMBERS: Final[dict[ChannelRole, Any]] = {role: number for number, role in ROLES.items()}
ACTION_NUMBERS: Final[dict[ChannelAction, Any]] = {action: number for number, action in ACTIONS.items()}
DTYPE_NAMES: Final[dict[int, str]] = {
    common.D_TYPE_INT32: "int32",
    common.D_TYPE_FLOAT16: "float16",
    common.D_TYPE_FLOAT32: "float32",
    common.D_TYPE_BFLOAT16: "bfloat16",
    common.D_TYPE_UINT8: "uint8",
}
MOST_SLOTS: Final = 1 << 17  # twice the sequences of the most and largest lanes
MOST_DIMENSIONS: Final = 8
LONGEST_ID: Final = 128  # characters
DTYPE_NUMBERS: Final[dict[str, Any]] = {name: number for number, name in DTYPE_NAMES.items()}


def read_reference(message: common.PayloadRef) -> PayloadRef:
    """The channel itself checks the reference against its ring."""
    dtype = DTYPE_NAMES.get(message.dtype)
    if len(message.shape) > MOST_DIMENSIONS:
        raise ProtocolError(f"reference.shape: {len(message.shape)} dimensions, at most {MOST_DIMENSIONS}")
    if dtype is None:
        raise ProtocolError(f"reference.dtype: {message.dtype} is not an element type")
    return PayloadRef(
        channel_id=message.channel_id,
        generation=message.generation,
        slot=message.slot,
        sequence=message.sequence,
        nbytes=message.nbytes,
        dtype=dtype,
        shape=tuple(message.shape),
    )


def write_reference(ref: PayloadRef) -> common.PayloadRef:
    return common.PayloadRef(
        channel_id=ref.channel_id,
        generation=ref.generation,
        slot=ref.slot,
        sequence=ref.sequence,
        nbytes=ref.nbytes,
        dtype=DTYPE_NUMBERS[ref.dtype],
        shape=ref.shape,
    )


def read_channel_request(message: common.ChannelRequest) -> ChannelRequest:
    kind, role, action = KINDS.get(message.spec.kind), ROLES.get(message.role), ACTIONS.get(message.action)
    if kind is None or role is None or action is None:
        raise ProtocolError("channel: kind, role and action must be known ones")
    if not 1 <= message.spec.slots <= MOST_SLOTS or message.spec.slot_bytes < 1:
        raise ProtocolError(f"channel.spec: 1 to {MOST_SLOTS} slots, and slot_bytes of at least 1")
    if len(message.spec.channel_id) > LONGEST_ID:
        raise ProtocolError(f"channel.spec.channel_id: at most {LONGEST_ID} characters")
    spec = message.spec
    return ChannelRequest(
        spec=ChannelSpec(spec.channel_id, spec.generation, kind, spec.slots, spec.slot_bytes),
        role=role,
        action=action,
        data=message.data,
        reference=read_reference(message.reference) if message.HasField("reference") else None,
    )


def write_channel_request(request_id: int, request: ChannelRequest) -> common.ChannelRequest:
    spec = request.spec
    return common.ChannelRequest(
        request_id=request_id,
        spec=common.ChannelSpec(
            channel_id=spec.channel_id,
            generation=spec.generation,
            kind=KIND_NUMBERS[spec.kind],
            slots=spec.slots,
            slot_bytes=spec.slot_bytes,
        ),
        role=ROLE_NUMBERS[request.role],
        action=ACTION_NUMBERS[request.action],
        data=request.data,
        reference=write_reference(request.reference) if request.reference else None,
    )


def read_channel_answer(message: common.ChannelResponse) -> ChannelAnswer:
    """Raises ChannelError for an answer that says so."""
    if message.error:
        raise ChannelError(message.error)
    return ChannelAnswer(message.data, read_reference(message.reference) if message.HasField("reference") else None)


def write_channel_answer(request_id: int, answer: ChannelAnswer | ChannelError) -> common.ChannelResponse:
    if isinstance(answer, ChannelError):
        return common.ChannelResponse(request_id=request_id, error=str(answer))
    return common.ChannelResponse(
        request_id=request_id,
        data=answer.data,
        reference=write_reference(answer.reference) if answer.reference else None,
    )


def read_fault(message: common.ChannelFault) -> ChannelFault:
    return ChannelFault(message.channel_id, message.generation, message.reason)


def write_fault(fault: ChannelFault) -> common.ChannelFault:
    return common.ChannelFault(channel_id=fault.channel_id, generation=fault.generation, reason=fault.reason)


def read_chunk(message: common.PayloadChunk) -> PayloadChunk:
    return PayloadChunk(
        message.channel_id,
        message.generation,
        message.slot,
        message.sequence,
        message.nbytes,
        message.offset,
        message.data,
    )


def write_chunk(chunk: PayloadChunk) -> common.PayloadChunk:
    return common.PayloadChunk(
        channel_id=chunk.channel_id,
        generation=chunk.generation,
        slot=chunk.slot,
        sequence=chunk.sequence,
        nbytes=chunk.nbytes,
        offset=chunk.offset,
        data=chunk.data,
    )


def carries_chunks(response: Any) -> bool:
    """Whether a stream's responses can be chunks: a DraftResponse's, not a VerifyResponse's."""
    return "chunk" in response.DESCRIPTOR.fields_by_name


def read_host(message: common.HostFacts) -> HostFacts:
    """Kinds of channels that this version does not know are left out."""
    return HostFacts(
        boot_id=message.boot_id,
        pid_namespace=message.pid_namespace,
        shm_device=message.shm_device,
        gpu_uuid=message.gpu_uuid,
        driver_version=message.driver_version,
        kinds=tuple(KINDS[number] for number in message.kinds if number in KINDS),
    )


def write_host(facts: HostFacts) -> common.HostFacts:
    return common.HostFacts(
        boot_id=facts.boot_id,
        pid_namespace=facts.pid_namespace,
        shm_device=facts.shm_device,
        gpu_uuid=facts.gpu_uuid,
        driver_version=facts.driver_version,
        kinds=[KIND_NUMBERS[kind] for kind in facts.kinds],
    )
