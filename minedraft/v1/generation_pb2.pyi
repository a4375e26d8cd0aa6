from minedraft.v1 import common_pb2 as _common_pb2
from minedraft.v1 import verifier_pb2 as _verifier_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class FinishReason(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FINISH_REASON_UNSPECIFIED: _ClassVar[FinishReason]
    FINISH_REASON_EOS: _ClassVar[FinishReason]
    FINISH_REASON_STOP: _ClassVar[FinishReason]
    FINISH_REASON_LENGTH: _ClassVar[FinishReason]

class StepKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    STEP_KIND_UNSPECIFIED: _ClassVar[StepKind]
    STEP_KIND_DRAFT: _ClassVar[StepKind]
    STEP_KIND_VERIFY: _ClassVar[StepKind]
FINISH_REASON_UNSPECIFIED: FinishReason
FINISH_REASON_EOS: FinishReason
FINISH_REASON_STOP: FinishReason
FINISH_REASON_LENGTH: FinishReason
STEP_KIND_UNSPECIFIED: StepKind
STEP_KIND_DRAFT: StepKind
STEP_KIND_VERIFY: StepKind

class GenerateRequest(_message.Message):
    __slots__ = ("text", "chat", "token_ids", "sampling", "model", "request_id", "max_draft_tokens")
    TEXT_FIELD_NUMBER: _ClassVar[int]
    CHAT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    text: str
    chat: Chat
    token_ids: TokenIds
    sampling: _common_pb2.SamplingParams
    model: str
    request_id: str
    max_draft_tokens: int
    def __init__(self, text: _Optional[str] = ..., chat: _Optional[_Union[Chat, _Mapping]] = ..., token_ids: _Optional[_Union[TokenIds, _Mapping]] = ..., sampling: _Optional[_Union[_common_pb2.SamplingParams, _Mapping]] = ..., model: _Optional[str] = ..., request_id: _Optional[str] = ..., max_draft_tokens: _Optional[int] = ...) -> None: ...

class Chat(_message.Message):
    __slots__ = ("messages",)
    MESSAGES_FIELD_NUMBER: _ClassVar[int]
    messages: _containers.RepeatedCompositeFieldContainer[ChatMessage]
    def __init__(self, messages: _Optional[_Iterable[_Union[ChatMessage, _Mapping]]] = ...) -> None: ...

class ChatMessage(_message.Message):
    __slots__ = ("role", "content")
    ROLE_FIELD_NUMBER: _ClassVar[int]
    CONTENT_FIELD_NUMBER: _ClassVar[int]
    role: str
    content: str
    def __init__(self, role: _Optional[str] = ..., content: _Optional[str] = ...) -> None: ...

class TokenIds(_message.Message):
    __slots__ = ("ids",)
    IDS_FIELD_NUMBER: _ClassVar[int]
    ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, ids: _Optional[_Iterable[int]] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("request_id", "text", "token_ids", "logprobs", "finish_reason", "usage", "speculation")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    FINISH_REASON_FIELD_NUMBER: _ClassVar[int]
    USAGE_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    text: str
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    logprobs: _containers.RepeatedCompositeFieldContainer[_verifier_pb2.TokenLogprobs]
    finish_reason: FinishReason
    usage: Usage
    speculation: SpeculationStats
    def __init__(self, request_id: _Optional[str] = ..., text: _Optional[str] = ..., token_ids: _Optional[_Iterable[int]] = ..., logprobs: _Optional[_Iterable[_Union[_verifier_pb2.TokenLogprobs, _Mapping]]] = ..., finish_reason: _Optional[_Union[FinishReason, str]] = ..., usage: _Optional[_Union[Usage, _Mapping]] = ..., speculation: _Optional[_Union[SpeculationStats, _Mapping]] = ...) -> None: ...

class Usage(_message.Message):
    __slots__ = ("prompt_tokens", "completion_tokens")
    PROMPT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    COMPLETION_TOKENS_FIELD_NUMBER: _ClassVar[int]
    prompt_tokens: int
    completion_tokens: int
    def __init__(self, prompt_tokens: _Optional[int] = ..., completion_tokens: _Optional[int] = ...) -> None: ...

class SpeculationStats(_message.Message):
    __slots__ = ("rounds", "drafted_rounds", "draft_tokens", "accepted_tokens", "accepted_by_position", "drafted_by_position", "emitted_tokens")
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_ROUNDS_FIELD_NUMBER: _ClassVar[int]
    DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_BY_POSITION_FIELD_NUMBER: _ClassVar[int]
    DRAFTED_BY_POSITION_FIELD_NUMBER: _ClassVar[int]
    EMITTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    rounds: int
    drafted_rounds: int
    draft_tokens: int
    accepted_tokens: int
    accepted_by_position: _containers.RepeatedScalarFieldContainer[int]
    drafted_by_position: _containers.RepeatedScalarFieldContainer[int]
    emitted_tokens: int
    def __init__(self, rounds: _Optional[int] = ..., drafted_rounds: _Optional[int] = ..., draft_tokens: _Optional[int] = ..., accepted_tokens: _Optional[int] = ..., accepted_by_position: _Optional[_Iterable[int]] = ..., drafted_by_position: _Optional[_Iterable[int]] = ..., emitted_tokens: _Optional[int] = ...) -> None: ...

class CompleteRequest(_message.Message):
    __slots__ = ("generate",)
    GENERATE_FIELD_NUMBER: _ClassVar[int]
    generate: GenerateRequest
    def __init__(self, generate: _Optional[_Union[GenerateRequest, _Mapping]] = ...) -> None: ...

class CompleteResponse(_message.Message):
    __slots__ = ("output",)
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    output: GenerateResponse
    def __init__(self, output: _Optional[_Union[GenerateResponse, _Mapping]] = ...) -> None: ...

class GetServerInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetServerInfoResponse(_message.Message):
    __slots__ = ("version", "target", "drafters", "verifiers", "lanes", "limits", "queued_requests", "speculation", "activity", "finished_requests", "aborted_requests", "choices")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    DRAFTERS_FIELD_NUMBER: _ClassVar[int]
    VERIFIERS_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    QUEUED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    SPECULATION_FIELD_NUMBER: _ClassVar[int]
    ACTIVITY_FIELD_NUMBER: _ClassVar[int]
    FINISHED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ABORTED_REQUESTS_FIELD_NUMBER: _ClassVar[int]
    CHOICES_FIELD_NUMBER: _ClassVar[int]
    version: str
    target: _common_pb2.ModelInfo
    drafters: _containers.RepeatedCompositeFieldContainer[PeerInfo]
    verifiers: _containers.RepeatedCompositeFieldContainer[PeerInfo]
    lanes: _containers.RepeatedCompositeFieldContainer[LaneInfo]
    limits: Limits
    queued_requests: int
    speculation: SpeculationStats
    activity: Activity
    finished_requests: int
    aborted_requests: int
    choices: _containers.RepeatedCompositeFieldContainer[Choice]
    def __init__(self, version: _Optional[str] = ..., target: _Optional[_Union[_common_pb2.ModelInfo, _Mapping]] = ..., drafters: _Optional[_Iterable[_Union[PeerInfo, _Mapping]]] = ..., verifiers: _Optional[_Iterable[_Union[PeerInfo, _Mapping]]] = ..., lanes: _Optional[_Iterable[_Union[LaneInfo, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ..., queued_requests: _Optional[int] = ..., speculation: _Optional[_Union[SpeculationStats, _Mapping]] = ..., activity: _Optional[_Union[Activity, _Mapping]] = ..., finished_requests: _Optional[int] = ..., aborted_requests: _Optional[int] = ..., choices: _Optional[_Iterable[_Union[Choice, _Mapping]]] = ...) -> None: ...

class Choice(_message.Message):
    __slots__ = ("lanes", "draft_tokens", "auto_lanes", "auto_draft_tokens", "reason", "draft_seconds", "verify_seconds", "around_seconds", "tokens_per_second", "acceptance", "changes", "trials", "trial_seconds")
    LANES_FIELD_NUMBER: _ClassVar[int]
    DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    AUTO_LANES_FIELD_NUMBER: _ClassVar[int]
    AUTO_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DRAFT_SECONDS_FIELD_NUMBER: _ClassVar[int]
    VERIFY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    AROUND_SECONDS_FIELD_NUMBER: _ClassVar[int]
    TOKENS_PER_SECOND_FIELD_NUMBER: _ClassVar[int]
    ACCEPTANCE_FIELD_NUMBER: _ClassVar[int]
    CHANGES_FIELD_NUMBER: _ClassVar[int]
    TRIALS_FIELD_NUMBER: _ClassVar[int]
    TRIAL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    lanes: int
    draft_tokens: int
    auto_lanes: bool
    auto_draft_tokens: bool
    reason: str
    draft_seconds: float
    verify_seconds: float
    around_seconds: float
    tokens_per_second: float
    acceptance: _containers.RepeatedScalarFieldContainer[float]
    changes: int
    trials: int
    trial_seconds: float
    def __init__(self, lanes: _Optional[int] = ..., draft_tokens: _Optional[int] = ..., auto_lanes: bool = ..., auto_draft_tokens: bool = ..., reason: _Optional[str] = ..., draft_seconds: _Optional[float] = ..., verify_seconds: _Optional[float] = ..., around_seconds: _Optional[float] = ..., tokens_per_second: _Optional[float] = ..., acceptance: _Optional[_Iterable[float]] = ..., changes: _Optional[int] = ..., trials: _Optional[int] = ..., trial_seconds: _Optional[float] = ...) -> None: ...

class PeerInfo(_message.Message):
    __slots__ = ("address", "connected", "model", "refusal", "state", "connections", "channel", "channel_note", "channel_generation", "payloads", "payloads_replaced")
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    REFUSAL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CONNECTIONS_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_NOTE_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_GENERATION_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_FIELD_NUMBER: _ClassVar[int]
    PAYLOADS_REPLACED_FIELD_NUMBER: _ClassVar[int]
    address: str
    connected: bool
    model: _common_pb2.ModelInfo
    refusal: str
    state: _common_pb2.ServiceState
    connections: int
    channel: str
    channel_note: str
    channel_generation: int
    payloads: int
    payloads_replaced: int
    def __init__(self, address: _Optional[str] = ..., connected: bool = ..., model: _Optional[_Union[_common_pb2.ModelInfo, _Mapping]] = ..., refusal: _Optional[str] = ..., state: _Optional[_Union[_common_pb2.ServiceState, _Mapping]] = ..., connections: _Optional[int] = ..., channel: _Optional[str] = ..., channel_note: _Optional[str] = ..., channel_generation: _Optional[int] = ..., payloads: _Optional[int] = ..., payloads_replaced: _Optional[int] = ...) -> None: ...

class LaneInfo(_message.Message):
    __slots__ = ("lane", "requests", "rounds", "verifier", "drafter")
    LANE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_FIELD_NUMBER: _ClassVar[int]
    ROUNDS_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_FIELD_NUMBER: _ClassVar[int]
    DRAFTER_FIELD_NUMBER: _ClassVar[int]
    lane: int
    requests: int
    rounds: int
    verifier: str
    drafter: str
    def __init__(self, lane: _Optional[int] = ..., requests: _Optional[int] = ..., rounds: _Optional[int] = ..., verifier: _Optional[str] = ..., drafter: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("max_len", "lanes", "lane_size", "queue_size", "draft_tokens", "prefill_chunk")
    MAX_LEN_FIELD_NUMBER: _ClassVar[int]
    LANES_FIELD_NUMBER: _ClassVar[int]
    LANE_SIZE_FIELD_NUMBER: _ClassVar[int]
    QUEUE_SIZE_FIELD_NUMBER: _ClassVar[int]
    DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFILL_CHUNK_FIELD_NUMBER: _ClassVar[int]
    max_len: int
    lanes: int
    lane_size: int
    queue_size: int
    draft_tokens: int
    prefill_chunk: int
    def __init__(self, max_len: _Optional[int] = ..., lanes: _Optional[int] = ..., lane_size: _Optional[int] = ..., queue_size: _Optional[int] = ..., draft_tokens: _Optional[int] = ..., prefill_chunk: _Optional[int] = ...) -> None: ...

class Activity(_message.Message):
    __slots__ = ("wall_seconds", "verifier_forward_seconds", "drafter_forward_seconds", "verifier_busy_seconds", "drafter_busy_seconds", "overlap_seconds", "verifications", "drafts")
    WALL_SECONDS_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_FORWARD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DRAFTER_FORWARD_SECONDS_FIELD_NUMBER: _ClassVar[int]
    VERIFIER_BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    DRAFTER_BUSY_SECONDS_FIELD_NUMBER: _ClassVar[int]
    OVERLAP_SECONDS_FIELD_NUMBER: _ClassVar[int]
    VERIFICATIONS_FIELD_NUMBER: _ClassVar[int]
    DRAFTS_FIELD_NUMBER: _ClassVar[int]
    wall_seconds: float
    verifier_forward_seconds: float
    drafter_forward_seconds: float
    verifier_busy_seconds: float
    drafter_busy_seconds: float
    overlap_seconds: float
    verifications: int
    drafts: int
    def __init__(self, wall_seconds: _Optional[float] = ..., verifier_forward_seconds: _Optional[float] = ..., drafter_forward_seconds: _Optional[float] = ..., verifier_busy_seconds: _Optional[float] = ..., drafter_busy_seconds: _Optional[float] = ..., overlap_seconds: _Optional[float] = ..., verifications: _Optional[int] = ..., drafts: _Optional[int] = ...) -> None: ...

class GetTimelineRequest(_message.Message):
    __slots__ = ("after", "limit")
    AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    after: int
    limit: int
    def __init__(self, after: _Optional[int] = ..., limit: _Optional[int] = ...) -> None: ...

class GetTimelineResponse(_message.Message):
    __slots__ = ("steps", "newest")
    STEPS_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    steps: _containers.RepeatedCompositeFieldContainer[TimelineStep]
    newest: int
    def __init__(self, steps: _Optional[_Iterable[_Union[TimelineStep, _Mapping]]] = ..., newest: _Optional[int] = ...) -> None: ...

class TimelineStep(_message.Message):
    __slots__ = ("number", "kind", "lane", "service", "step_id", "items", "timing", "draft_tokens", "accepted_tokens", "received_unix_ns")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    number: int
    kind: StepKind
    lane: int
    service: str
    step_id: int
    items: int
    timing: _common_pb2.StepTiming
    draft_tokens: int
    accepted_tokens: int
    received_unix_ns: int
    def __init__(self, number: _Optional[int] = ..., kind: _Optional[_Union[StepKind, str]] = ..., lane: _Optional[int] = ..., service: _Optional[str] = ..., step_id: _Optional[int] = ..., items: _Optional[int] = ..., timing: _Optional[_Union[_common_pb2.StepTiming, _Mapping]] = ..., draft_tokens: _Optional[int] = ..., accepted_tokens: _Optional[int] = ..., received_unix_ns: _Optional[int] = ...) -> None: ...
