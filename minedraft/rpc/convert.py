"""Nouns to protobuf and back: what more than one message shares. Only `minedraft.rpc` touches protobuf fields.

Readers (`read_*`) check shape and range and raise ProtocolError; writers (`write_*`) trust their frozen nouns.
"""

from __future__ import annotations

from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from minedraft.errors import ProtocolError
from minedraft.rpc.convert_channel import read_host, read_reference, write_host, write_reference
from minedraft.types import (
    AcceptanceRule,
    Dense,
    DraftLaw,
    ItemStatus,
    ModelInfo,
    PayloadRef,
    PointMass,
    Proposal,
    SamplingParams,
    SequenceParams,
    ServiceState,
    StepTiming,
    TokenizerFiles,
    TokenLogprobs,
    TopM,
    Welcome,
)
from minedraft.v1 import common_pb2 as common
from minedraft.v1 import verifier_pb2 as verifier

DTYPES: Final[dict[int, np.dtype[Any]]] = {
    common.D_TYPE_INT32: np.dtype("<i4"),
    common.D_TYPE_FLOAT16: np.dtype("<f2"),
    common.D_TYPE_FLOAT32: np.dtype("<f4"),
}
DTYPE_NUMBERS: Final[dict[np.dtype[Any], Any]] = {dtype: number for number, dtype in DTYPES.items()}
RULES: Final = {
    common.ACCEPTANCE_RULE_REJECTION: AcceptanceRule.REJECTION,
    common.ACCEPTANCE_RULE_MATCH: AcceptanceRule.MATCH,
}
RULE_NUMBERS: Final = {rule: number for number, rule in RULES.items()}
SCALAR_PARAMS: Final = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "frequency_penalty",
    "presence_penalty",
    "max_new_tokens",
    "min_new_tokens",
    "seed",
    "logprobs",
)
DEFAULT_PARAMS: Final = SamplingParams()


def read_sampling(message: common.SamplingParams, default: SamplingParams = DEFAULT_PARAMS) -> SamplingParams:
    """Absent scalars come from `default`. Ranges are the caller's to check."""
    given = {
        name: getattr(message, name) if message.HasField(name) else getattr(default, name) for name in SCALAR_PARAMS
    }
    return SamplingParams(
        **given,
        logit_bias=dict(message.logit_bias),
        stop=tuple(message.stop),
        stop_token_ids=tuple(message.stop_token_ids),
        ignore_eos=message.ignore_eos,
    )


def write_sampling(params: SamplingParams) -> common.SamplingParams:
    return common.SamplingParams(
        **{name: value for name in SCALAR_PARAMS if (value := getattr(params, name)) is not None},
        logit_bias=params.logit_bias,
        stop=params.stop,
        stop_token_ids=params.stop_token_ids,
        ignore_eos=params.ignore_eos,
    )


def read_params(message: common.SequenceParams) -> SequenceParams:
    rule = RULES.get(message.rule)
    if rule is None:
        raise ProtocolError(f"params.rule: {message.rule} is not an acceptance rule")
    return SequenceParams(message.prompt_len, message.seed, rule, read_sampling(message.sampling))


def write_params(params: SequenceParams) -> common.SequenceParams:
    return common.SequenceParams(
        prompt_len=params.prompt_len,
        seed=params.seed,
        rule=RULE_NUMBERS[params.rule],
        sampling=write_sampling(params.sampling),
    )


def read_status(number: int) -> ItemStatus:
    try:
        return ItemStatus(number)
    except ValueError:
        raise ProtocolError(f"status: {number} is not an item status") from None


def read_array(message: common.Array, dimensions: int, *allowed: str) -> NDArray[Any]:
    """A read-only view of the message's bytes. `allowed` are numpy type codes such as "<f4"."""
    dtype = DTYPES.get(message.dtype)
    shape = tuple(message.shape)
    if dtype is None or dtype.str not in allowed:
        raise ProtocolError(f"array.dtype: {message.dtype} is not one of {', '.join(allowed)}")
    if len(shape) != dimensions:
        raise ProtocolError(f"array.shape: {len(shape)} dimensions, {dimensions} wanted")
    if prod(shape) * dtype.itemsize != len(message.data):
        raise ProtocolError(f"array.data: {len(message.data)} bytes do not fill {shape} of {dtype.str}")
    return np.frombuffer(message.data, dtype).reshape(shape)


def write_array(array: NDArray[Any]) -> common.Array:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return common.Array(dtype=DTYPE_NUMBERS[little.dtype], shape=little.shape, data=little.tobytes())


def read_law(message: common.Proposal) -> DraftLaw:
    """The law of a proposal. One without a law must have no drafts."""
    kind = message.WhichOneof("law")
    if kind == "point_mass" or (kind is None and not message.token_ids):
        return PointMass()
    if kind == "top_m":
        return TopM(read_array(message.top_m.token_ids, 2, "<i4"), read_array(message.top_m.weights, 2, "<f4"))
    if kind == "dense":
        payload = message.dense.WhichOneof("payload")
        if payload == "inline":
            return Dense(read_array(message.dense.inline, 2, "<f2", "<f4"))
        if payload == "reference":
            return Dense(read_reference(message.dense.reference))
        raise ProtocolError("proposal.dense: neither weights nor a reference to them")
    raise ProtocolError("proposal.law: missing")


def read_proposal(message: common.Proposal) -> Proposal:
    return Proposal(
        sequence_id=message.sequence_id,
        token_ids=tuple(message.token_ids),
        law=read_law(message),
        status=read_status(message.status),
        cached_len=message.cached_len,
        reason=message.reason,
    )


def write_proposal(proposal: Proposal) -> common.Proposal:
    message = common.Proposal(
        sequence_id=proposal.sequence_id,
        token_ids=proposal.token_ids,
        status=proposal.status.value,  # type: ignore[arg-type]  # the generated enum is an int at run time
        cached_len=proposal.cached_len,
        reason=proposal.reason,
    )
    match proposal.law:
        case _ if not proposal.token_ids:
            pass
        case PointMass():
            message.point_mass.SetInParent()
        case TopM(token_ids, weights):
            message.top_m.token_ids.CopyFrom(write_array(token_ids))
            message.top_m.weights.CopyFrom(write_array(weights))
        case Dense(weights):
            if isinstance(weights, PayloadRef):
                message.dense.reference.CopyFrom(write_reference(weights))
            else:
                message.dense.inline.CopyFrom(write_array(weights))
    return message


def read_timing(message: common.StepTiming) -> StepTiming:
    return StepTiming(message.queue_ns, message.host_ns, message.forward_ns, message.started_unix_ns)


def write_timing(timing: StepTiming) -> common.StepTiming:
    return common.StepTiming(
        queue_ns=timing.queue_ns,
        host_ns=timing.host_ns,
        forward_ns=timing.forward_ns,
        started_unix_ns=timing.started_unix_ns,
    )


def read_state(message: common.ServiceState) -> ServiceState:
    return ServiceState(
        message.instance_id,
        message.free_blocks,
        message.sequences,
        fed_tokens=message.fed_tokens,
        prefix_tokens=message.prefix_tokens,
        prefix_tokens_found=message.prefix_tokens_found,
        prefix_evictions=message.prefix_evictions,
    )


def write_state(state: ServiceState) -> common.ServiceState:
    return common.ServiceState(
        instance_id=state.instance_id,
        free_blocks=state.free_blocks,
        sequences=state.sequences,
        fed_tokens=state.fed_tokens,
        prefix_tokens=state.prefix_tokens,
        prefix_tokens_found=state.prefix_tokens_found,
        prefix_evictions=state.prefix_evictions,
    )


def read_model(message: common.ModelInfo) -> ModelInfo:
    return ModelInfo(
        model_id=message.model_id,
        architecture=message.architecture,
        vocab_size=message.vocab_size,
        tokenizer_fingerprint=message.tokenizer_fingerprint,
        max_len=message.max_len,
        block_size=message.block_size,
        num_blocks=message.num_blocks,
        dtype=message.dtype,
        device=message.device,
        attention_backend=message.attention_backend,
        eos_token_ids=tuple(message.eos_token_ids),
        simulated=message.simulated,
        instance_id=message.instance_id,
    )


def write_model(model: ModelInfo) -> common.ModelInfo:
    return common.ModelInfo(
        model_id=model.model_id,
        architecture=model.architecture,
        vocab_size=model.vocab_size,
        tokenizer_fingerprint=model.tokenizer_fingerprint,
        max_len=model.max_len,
        block_size=model.block_size,
        num_blocks=model.num_blocks,
        dtype=model.dtype,
        device=model.device,
        attention_backend=model.attention_backend,
        eos_token_ids=model.eos_token_ids,
        simulated=model.simulated,
        instance_id=model.instance_id,
    )


def read_welcome(message: common.Welcome) -> Welcome:
    return Welcome(
        model=read_model(message.model),
        state=read_state(message.state),
        host=read_host(message.host),
        payload_bytes_per_draft=message.payload_bytes_per_draft,
        estimates_chances=message.estimates_chances,
    )


def write_welcome(welcome: Welcome) -> common.Welcome:
    return common.Welcome(
        model=write_model(welcome.model),
        state=write_state(welcome.state),
        host=write_host(welcome.host),
        payload_bytes_per_draft=welcome.payload_bytes_per_draft,
        estimates_chances=welcome.estimates_chances,
    )


def read_logprobs(message: verifier.TokenLogprobs) -> TokenLogprobs:
    if len(message.top_token_ids) != len(message.top_logprobs):
        raise ProtocolError("logprobs: top_token_ids and top_logprobs differ in length")
    return TokenLogprobs(message.token_id, message.logprob, tuple(message.top_token_ids), tuple(message.top_logprobs))


def write_logprobs(logprobs: TokenLogprobs) -> verifier.TokenLogprobs:
    return verifier.TokenLogprobs(
        token_id=logprobs.token_id,
        logprob=logprobs.logprob,
        top_token_ids=logprobs.top_token_ids,
        top_logprobs=logprobs.top_logprobs,
    )


def read_tokenizer(message: verifier.GetTokenizerResponse) -> TokenizerFiles:
    return TokenizerFiles(
        message.tokenizer_json, message.chat_template, dict(message.special_tokens), message.fingerprint
    )


def write_tokenizer(files: TokenizerFiles) -> verifier.GetTokenizerResponse:
    return verifier.GetTokenizerResponse(
        tokenizer_json=files.tokenizer_json,
        chat_template=files.chat_template,
        special_tokens=files.special_tokens,
        fingerprint=files.fingerprint,
    )
