from minedraft.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DrafterServiceGetInfoRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrafterServiceGetInfoResponse(_message.Message):
    __slots__ = ("model", "state")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    model: _common_pb2.ModelInfo
    state: _common_pb2.ServiceState
    def __init__(self, model: _Optional[_Union[_common_pb2.ModelInfo, _Mapping]] = ..., state: _Optional[_Union[_common_pb2.ServiceState, _Mapping]] = ...) -> None: ...

class DraftRequest(_message.Message):
    __slots__ = ("step", "release", "heartbeat", "channel")
    STEP_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    step: DraftStep
    release: _common_pb2.Release
    heartbeat: _common_pb2.Heartbeat
    channel: _common_pb2.ChannelRequest
    def __init__(self, step: _Optional[_Union[DraftStep, _Mapping]] = ..., release: _Optional[_Union[_common_pb2.Release, _Mapping]] = ..., heartbeat: _Optional[_Union[_common_pb2.Heartbeat, _Mapping]] = ..., channel: _Optional[_Union[_common_pb2.ChannelRequest, _Mapping]] = ...) -> None: ...

class DraftStep(_message.Message):
    __slots__ = ("step_id", "lane", "items", "channel_id")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_ID_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    lane: int
    items: _containers.RepeatedCompositeFieldContainer[DraftItem]
    channel_id: str
    def __init__(self, step_id: _Optional[int] = ..., lane: _Optional[int] = ..., items: _Optional[_Iterable[_Union[DraftItem, _Mapping]]] = ..., channel_id: _Optional[str] = ...) -> None: ...

class DraftItem(_message.Message):
    __slots__ = ("sequence_id", "base_len", "tail_token_ids", "params", "max_draft_tokens", "least_chance", "traceparent")
    SEQUENCE_ID_FIELD_NUMBER: _ClassVar[int]
    BASE_LEN_FIELD_NUMBER: _ClassVar[int]
    TAIL_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    MAX_DRAFT_TOKENS_FIELD_NUMBER: _ClassVar[int]
    LEAST_CHANCE_FIELD_NUMBER: _ClassVar[int]
    TRACEPARENT_FIELD_NUMBER: _ClassVar[int]
    sequence_id: int
    base_len: int
    tail_token_ids: _containers.RepeatedScalarFieldContainer[int]
    params: _common_pb2.SequenceParams
    max_draft_tokens: int
    least_chance: float
    traceparent: str
    def __init__(self, sequence_id: _Optional[int] = ..., base_len: _Optional[int] = ..., tail_token_ids: _Optional[_Iterable[int]] = ..., params: _Optional[_Union[_common_pb2.SequenceParams, _Mapping]] = ..., max_draft_tokens: _Optional[int] = ..., least_chance: _Optional[float] = ..., traceparent: _Optional[str] = ...) -> None: ...

class DraftResponse(_message.Message):
    __slots__ = ("welcome", "reply", "heartbeat", "goodbye", "channel", "chunk")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    REPLY_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    welcome: _common_pb2.Welcome
    reply: DraftReply
    heartbeat: _common_pb2.Heartbeat
    goodbye: _common_pb2.Goodbye
    channel: _common_pb2.ChannelResponse
    chunk: _common_pb2.PayloadChunk
    def __init__(self, welcome: _Optional[_Union[_common_pb2.Welcome, _Mapping]] = ..., reply: _Optional[_Union[DraftReply, _Mapping]] = ..., heartbeat: _Optional[_Union[_common_pb2.Heartbeat, _Mapping]] = ..., goodbye: _Optional[_Union[_common_pb2.Goodbye, _Mapping]] = ..., channel: _Optional[_Union[_common_pb2.ChannelResponse, _Mapping]] = ..., chunk: _Optional[_Union[_common_pb2.PayloadChunk, _Mapping]] = ...) -> None: ...

class DraftReply(_message.Message):
    __slots__ = ("step_id", "proposals", "timing", "state", "channel_fault")
    STEP_ID_FIELD_NUMBER: _ClassVar[int]
    PROPOSALS_FIELD_NUMBER: _ClassVar[int]
    TIMING_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    CHANNEL_FAULT_FIELD_NUMBER: _ClassVar[int]
    step_id: int
    proposals: _containers.RepeatedCompositeFieldContainer[_common_pb2.Proposal]
    timing: _common_pb2.StepTiming
    state: _common_pb2.ServiceState
    channel_fault: _common_pb2.ChannelFault
    def __init__(self, step_id: _Optional[int] = ..., proposals: _Optional[_Iterable[_Union[_common_pb2.Proposal, _Mapping]]] = ..., timing: _Optional[_Union[_common_pb2.StepTiming, _Mapping]] = ..., state: _Optional[_Union[_common_pb2.ServiceState, _Mapping]] = ..., channel_fault: _Optional[_Union[_common_pb2.ChannelFault, _Mapping]] = ...) -> None: ...
