from minedraft.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class VerifierServiceGetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class VerifierServiceGetInfoResponse(_message.Message):
    __slots__ = ("model", "state")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    model: _common_pb2.ModelInfo
    state: _common_pb2.ServiceState
    def __init__(self, model: _Optional[_Union[_common_pb2.ModelInfo, _Mapping]] = ..., state: _Optional[_Union[_common_pb2.ServiceState, _Mapping]] = ...) -> None: ...

class GetTokenizerRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetTokenizerResponse(_message.Message):
    __slots__ = ("tokenizer_json", "chat_template", "special_tokens", "fingerprint")
    class SpecialTokensEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    TOKENIZER_JSON_FIELD_NUMBER: _ClassVar[int]
    CHAT_TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    SPECIAL_TOKENS_FIELD_NUMBER: _ClassVar[int]
    FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    tokenizer_json: bytes
    chat_template: str
    special_tokens: _containers.ScalarMap[str, str]
    fingerprint: str
    def __init__(self, tokenizer_json: _Optional[bytes] = ..., chat_template: _Optional[str] = ..., special_tokens: _Optional[_Mapping[str, str]] = ..., fingerprint: _Optional[str] = ...) -> None: ...

class VerifyRequest(_message.Message):
    __slots__ = ("step", "release", "heartbeat", "channel", "chunk")
    STEP_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    step: VerifyStep
    release: _common_pb2.Release
    heartbeat: _common_pb2.Heartbeat
    channel: _common_pb2.ChannelRequest
    chunk: _common_pb2.PayloadChunk
    def __init__(self, step: _Optional[_Union[VerifyStep, _Mapping]] = ..., release: _Optional[_Union[_common_pb2.Release, _Mapping]] = ..., heartbeat: _Optional[_Union[_common_pb2.Heartbeat, _Mapping]] = ..., channel: _Optional[_Union[_common_pb2.ChannelRequest, _Mapping]] = ..., chunk: _Optional[_Union[_common_pb2.PayloadChunk, _Mapping]] = ...) -> None: ...

class VerifyStep(_message.Message):
    __slots__ = ("step_id", "lane", "items")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    lane: int
    items: _containers.RepeatedCompositeFieldContainer[VerifyItem]
    def __init__(self, step_id: _Optional[int] = ..., lane: _Optional[int] = ..., items: _Optional[_Iterable[_Union[VerifyItem, _Mapping]]] = ...) -> None: ...

class VerifyItem(_message.Message):
    __slots__ = ("sequence_id", "base_len", "tail_token_ids", "params", "proposal", "emit", "traceparent")
    SEQUENCE_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_LEN_FIELD_NUMBER: _ClassVar[int]
    TAIL_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    PROPOSAL_FIELD_NUMBER: _ClassVar[int]
    EMIT_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    sequence_id: int
    base_len: int
    tail_token_ids: _containers.RepeatedScalarFieldContainer[int]
    params: _common_pb2.SequenceParams
    proposal: _common_pb2.Proposal
    emit: bool
    traceparent: str
    def __init__(self, sequence_id: _Optional[int] = ..., base_len: _Optional[int] = ..., tail_token_ids: _Optional[_Iterable[int]] = ..., params: _Optional[_Union[_common_pb2.SequenceParams, _Mapping]] = ..., proposal: _Optional[_Union[_common_pb2.Proposal, _Mapping]] = ..., emit: bool = ..., traceparent: _Optional[str] = ...) -> None: ...

class VerifyResponse(_message.Message):
    __slots__ = ("welcome", "reply", "heartbeat", "goodbye", "channel")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    welcome: _common_pb2.Welcome
    reply: VerifyReply
    heartbeat: _common_pb2.Heartbeat
    goodbye: _common_pb2.Goodbye
    channel: _common_pb2.ChannelResponse
    def __init__(self, welcome: _Optional[_Union[_common_pb2.Welcome, _Mapping]] = ..., reply: _Optional[_Union[VerifyReply, _Mapping]] = ..., heartbeat: _Optional[_Union[_common_pb2.Heartbeat, _Mapping]] = ..., goodbye: _Optional[_Union[_common_pb2.Goodbye, _Mapping]] = ..., channel: _Optional[_Union[_common_pb2.ChannelResponse, _Mapping]] = ...) -> None: ...

class VerifyReply(_message.Message):
    __slots__ = ("step_id", "verdicts", "timing", "state", "channel_fault")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    VERDICTS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FAULT_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    verdicts: _containers.RepeatedCompositeFieldContainer[Verdict]
    timing: _common_pb2.StepTiming
    state: _common_pb2.ServiceState
    channel_fault: _common_pb2.ChannelFault
    def __init__(self, step_id: _Optional[int] = ..., verdicts: _Optional[_Iterable[_Union[Verdict, _Mapping]]] = ..., timing: _Optional[_Union[_common_pb2.StepTiming, _Mapping]] = ..., state: _Optional[_Union[_common_pb2.ServiceState, _Mapping]] = ..., channel_fault: _Optional[_Union[_common_pb2.ChannelFault, _Mapping]] = ...) -> None: ...

class Verdict(_message.Message):
    __slots__ = ("sequence_id", "accepted_len", "next_token_id", "logprobs", "status", "cached_len", "reason")
    SEQUENCE_ID_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_LEN_FIELD_NUMBER: _ClassVar[int]
    NEXT_TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CACHED_LEN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    sequence_id: int
    accepted_len: int
    next_token_id: int
    logprobs: _containers.RepeatedCompositeFieldContainer[TokenLogprobs]
    status: _common_pb2.ItemStatus
    cached_len: int
    reason: str
    def __init__(self, sequence_id: _Optional[int] = ..., accepted_len: _Optional[int] = ..., next_token_id: _Optional[int] = ..., logprobs: _Optional[_Iterable[_Union[TokenLogprobs, _Mapping]]] = ..., status: _Optional[_Union[_common_pb2.ItemStatus, str]] = ..., cached_len: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class TokenLogprobs(_message.Message):
    __slots__ = ("token_id", "logprob", "top_token_ids", "top_logprobs")
    TOKEN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGPROB_FIELD_NUMBER: _ClassVar[int]
    TOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    TOP_LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    token_id: int
    logprob: float
    top_token_ids: _containers.RepeatedScalarFieldContainer[int]
    top_logprobs: _containers.RepeatedScalarFieldContainer[float]
    def __init__(self, token_id: _Optional[int] = ..., logprob: _Optional[float] = ..., top_token_ids: _Optional[_Iterable[int]] = ..., top_logprobs: _Optional[_Iterable[float]] = ...) -> None: ...
