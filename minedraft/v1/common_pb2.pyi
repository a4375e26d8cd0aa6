from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class DType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    D_TYPE_UNSPECIFIED: _ClassVar[DType]
    D_TYPE_INT32: _ClassVar[DType]
    D_TYPE_FLOAT16: _ClassVar[DType]
    D_TYPE_FLOAT32: _ClassVar[DType]
    D_TYPE_BFLOAT16: _ClassVar[DType]
    D_TYPE_UINT8: _ClassVar[DType]

class AcceptanceRule(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ACCEPTANCE_RULE_UNSPECIFIED: _ClassVar[AcceptanceRule]
    ACCEPTANCE_RULE_REJECTION: _ClassVar[AcceptanceRule]
    ACCEPTANCE_RULE_MATCH: _ClassVar[AcceptanceRule]

class ItemStatus(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ITEM_STATUS_UNSPECIFIED: _ClassVar[ItemStatus]
    ITEM_STATUS_OK: _ClassVar[ItemStatus]
    ITEM_STATUS_GAP: _ClassVar[ItemStatus]
    ITEM_STATUS_NO_SPACE: _ClassVar[ItemStatus]
    ITEM_STATUS_REJECTED: _ClassVar[ItemStatus]

class ChannelKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANNEL_KIND_UNSPECIFIED: _ClassVar[ChannelKind]
    CHANNEL_KIND_INLINE: _ClassVar[ChannelKind]
    CHANNEL_KIND_SHM: _ClassVar[ChannelKind]
    CHANNEL_KIND_GLOO: _ClassVar[ChannelKind]
    CHANNEL_KIND_CUDA_IPC: _ClassVar[ChannelKind]
    CHANNEL_KIND_NCCL: _ClassVar[ChannelKind]

class ChannelRole(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANNEL_ROLE_UNSPECIFIED: _ClassVar[ChannelRole]
    CHANNEL_ROLE_SENDER: _ClassVar[ChannelRole]
    CHANNEL_ROLE_RECEIVER: _ClassVar[ChannelRole]

class ChannelAction(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CHANNEL_ACTION_UNSPECIFIED: _ClassVar[ChannelAction]
    CHANNEL_ACTION_OFFER: _ClassVar[ChannelAction]
    CHANNEL_ACTION_JOIN: _ClassVar[ChannelAction]
    CHANNEL_ACTION_SEAL: _ClassVar[ChannelAction]
    CHANNEL_ACTION_PROBE_WRITE: _ClassVar[ChannelAction]
    CHANNEL_ACTION_PROBE_READ: _ClassVar[ChannelAction]
    CHANNEL_ACTION_CLOSE: _ClassVar[ChannelAction]
D_TYPE_UNSPECIFIED: DType
D_TYPE_INT32: DType
D_TYPE_FLOAT16: DType
D_TYPE_FLOAT32: DType
D_TYPE_BFLOAT16: DType
D_TYPE_UINT8: DType
ACCEPTANCE_RULE_UNSPECIFIED: AcceptanceRule
ACCEPTANCE_RULE_REJECTION: AcceptanceRule
ACCEPTANCE_RULE_MATCH: AcceptanceRule
ITEM_STATUS_UNSPECIFIED: ItemStatus
ITEM_STATUS_OK: ItemStatus
ITEM_STATUS_GAP: ItemStatus
ITEM_STATUS_NO_SPACE: ItemStatus
ITEM_STATUS_REJECTED: ItemStatus
CHANNEL_KIND_UNSPECIFIED: ChannelKind
CHANNEL_KIND_INLINE: ChannelKind
CHANNEL_KIND_SHM: ChannelKind
CHANNEL_KIND_GLOO: ChannelKind
CHANNEL_KIND_CUDA_IPC: ChannelKind
CHANNEL_KIND_NCCL: ChannelKind
CHANNEL_ROLE_UNSPECIFIED: ChannelRole
CHANNEL_ROLE_SENDER: ChannelRole
CHANNEL_ROLE_RECEIVER: ChannelRole
CHANNEL_ACTION_UNSPECIFIED: ChannelAction
CHANNEL_ACTION_OFFER: ChannelAction
CHANNEL_ACTION_JOIN: ChannelAction
CHANNEL_ACTION_SEAL: ChannelAction
CHANNEL_ACTION_PROBE_WRITE: ChannelAction
CHANNEL_ACTION_PROBE_READ: ChannelAction
CHANNEL_ACTION_CLOSE: ChannelAction

class Array(_message.Message):
    __slots__ = ("dtype", "shape", "data")
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    dtype: DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    data: bytes
    def __init__(self, dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ..., data: _Optional[bytes] = ...) -> None: ...

class SamplingParams(_message.Message):
    __slots__ = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias", "max_new_tokens", "min_new_tokens", "stop", "stop_token_ids", "ignore_eos", "seed", "logprobs")
    class LogitBiasEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: float
        def __init__(self, key: _Optional[int] = ..., value: _Optional[float] = ...) -> None: ...
    TEMPERATURE_FIELD_NUMBER: _ClassVar[int]
    TOP_P_FIELD_NUMBER: _ClassVar[int]
    TOP_K_FIELD_NUMBER: _ClassVar[int]
    MIN_P_FIELD_NUMBER: _ClassVar[int]
    REPETITION_PENALTY_FIELD_NUMBER: _ClassVar[int]
    FREQUENCY_PENALTY_FIELD_NUMBER: _ClassVar[int]
    PRESENCE_PENALTY_FIELD_NUMBER: _ClassVar[int]
    LOGIT_BIAS_FIELD_NUMBER: _ClassVar[int]
    MAX_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    MIN_NEW_TOKENS_FIELD_NUMBER: _ClassVar[int]
    STOP_FIELD_NUMBER: _ClassVar[int]
    STOP_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    IGNORE_EOS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    LOGPROBS_FIELD_NUMBER: _ClassVar[int]
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    frequency_penalty: float
    presence_penalty: float
    logit_bias: _containers.ScalarMap[int, float]
    max_new_tokens: int
    min_new_tokens: int
    stop: _containers.RepeatedScalarFieldContainer[str]
    stop_token_ids: _containers.RepeatedScalarFieldContainer[int]
    ignore_eos: bool
    seed: int
    logprobs: int
    def __init__(self, temperature: _Optional[float] = ..., top_p: _Optional[float] = ..., top_k: _Optional[int] = ..., min_p: _Optional[float] = ..., repetition_penalty: _Optional[float] = ..., frequency_penalty: _Optional[float] = ..., presence_penalty: _Optional[float] = ..., logit_bias: _Optional[_Mapping[int, float]] = ..., max_new_tokens: _Optional[int] = ..., min_new_tokens: _Optional[int] = ..., stop: _Optional[_Iterable[str]] = ..., stop_token_ids: _Optional[_Iterable[int]] = ..., ignore_eos: bool = ..., seed: _Optional[int] = ..., logprobs: _Optional[int] = ...) -> None: ...

class SequenceParams(_message.Message):
    __slots__ = ("prompt_len", "seed", "rule", "sampling")
    PROMPT_LEN_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    SAMPLING_FIELD_NUMBER: _ClassVar[int]
    prompt_len: int
    seed: int
    rule: AcceptanceRule
    sampling: SamplingParams
    def __init__(self, prompt_len: _Optional[int] = ..., seed: _Optional[int] = ..., rule: _Optional[_Union[AcceptanceRule, str]] = ..., sampling: _Optional[_Union[SamplingParams, _Mapping]] = ...) -> None: ...

class Proposal(_message.Message):
    __slots__ = ("sequence_id", "token_ids", "point_mass", "top_m", "dense", "status", "cached_len", "reason")
    SEQUENCE_ID_FIELD_NUMBER: _ClassVar[int]
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    POINT_MASS_FIELD_NUMBER: _ClassVar[int]
    TOP_M_FIELD_NUMBER: _ClassVar[int]
    DENSE_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CACHED_LEN_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    sequence_id: int
    token_ids: _containers.RepeatedScalarFieldContainer[int]
    point_mass: PointMass
    top_m: TopM
    dense: Dense
    status: ItemStatus
    cached_len: int
    reason: str
    def __init__(self, sequence_id: _Optional[int] = ..., token_ids: _Optional[_Iterable[int]] = ..., point_mass: _Optional[_Union[PointMass, _Mapping]] = ..., top_m: _Optional[_Union[TopM, _Mapping]] = ..., dense: _Optional[_Union[Dense, _Mapping]] = ..., status: _Optional[_Union[ItemStatus, str]] = ..., cached_len: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class PointMass(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TopM(_message.Message):
    __slots__ = ("token_ids", "weights")
    TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    token_ids: Array
    weights: Array
    def __init__(self, token_ids: _Optional[_Union[Array, _Mapping]] = ..., weights: _Optional[_Union[Array, _Mapping]] = ...) -> None: ...

class Dense(_message.Message):
    __slots__ = ("inline", "reference")
    INLINE_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    inline: Array
    reference: PayloadRef
    def __init__(self, inline: _Optional[_Union[Array, _Mapping]] = ..., reference: _Optional[_Union[PayloadRef, _Mapping]] = ...) -> None: ...

class PayloadRef(_message.Message):
    __slots__ = ("channel_id", "generation", "slot", "sequence", "nbytes", "dtype", "shape")
    CHANNEL_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    channel_id: str
    generation: int
    slot: int
    sequence: int
    nbytes: int
    dtype: DType
    shape: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, channel_id: _Optional[str] = ..., generation: _Optional[int] = ..., slot: _Optional[int] = ..., sequence: _Optional[int] = ..., nbytes: _Optional[int] = ..., dtype: _Optional[_Union[DType, str]] = ..., shape: _Optional[_Iterable[int]] = ...) -> None: ...

class ChannelSpec(_message.Message):
    __slots__ = ("channel_id", "generation", "kind", "slots", "slot_bytes")
    CHANNEL_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    SLOT_BYTES_FIELD_NUMBER: _ClassVar[int]
    channel_id: str
    generation: int
    kind: ChannelKind
    slots: int
    slot_bytes: int
    def __init__(self, channel_id: _Optional[str] = ..., generation: _Optional[int] = ..., kind: _Optional[_Union[ChannelKind, str]] = ..., slots: _Optional[int] = ..., slot_bytes: _Optional[int] = ...) -> None: ...

class ChannelRequest(_message.Message):
    __slots__ = ("request_id", "spec", "role", "action", "data", "reference")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    ROLE_FIELD_NUMBER: _ClassVar[int]
    ACTION_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    spec: ChannelSpec
    role: ChannelRole
    action: ChannelAction
    data: bytes
    reference: PayloadRef
    def __init__(self, request_id: _Optional[int] = ..., spec: _Optional[_Union[ChannelSpec, _Mapping]] = ..., role: _Optional[_Union[ChannelRole, str]] = ..., action: _Optional[_Union[ChannelAction, str]] = ..., data: _Optional[bytes] = ..., reference: _Optional[_Union[PayloadRef, _Mapping]] = ...) -> None: ...

class ChannelResponse(_message.Message):
    __slots__ = ("request_id", "error", "data", "reference")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    REFERENCE_FIELD_NUMBER: _ClassVar[int]
    request_id: int
    error: str
    data: bytes
    reference: PayloadRef
    def __init__(self, request_id: _Optional[int] = ..., error: _Optional[str] = ..., data: _Optional[bytes] = ..., reference: _Optional[_Union[PayloadRef, _Mapping]] = ...) -> None: ...

class PayloadChunk(_message.Message):
    __slots__ = ("channel_id", "generation", "slot", "sequence", "nbytes", "offset", "data")
    CHANNEL_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    NBYTES_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    channel_id: str
    generation: int
    slot: int
    sequence: int
    nbytes: int
    offset: int
    data: bytes
    def __init__(self, channel_id: _Optional[str] = ..., generation: _Optional[int] = ..., slot: _Optional[int] = ..., sequence: _Optional[int] = ..., nbytes: _Optional[int] = ..., offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class ChannelFault(_message.Message):
    __slots__ = ("channel_id", "generation", "reason")
    CHANNEL_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    channel_id: str
    generation: int
    reason: str
    def __init__(self, channel_id: _Optional[str] = ..., generation: _Optional[int] = ..., reason: _Optional[str] = ...) -> None: ...

class HostFacts(_message.Message):
    __slots__ = ("boot_id", "pid_namespace", "shm_device", "gpu_uuid", "driver_version", "kinds")
    BOOT_ID_FIELD_NUMBER: _ClassVar[int]
    PID_NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    SHM_DEVICE_FIELD_NUMBER: _ClassVar[int]
    GPU_UUID_FIELD_NUMBER: _ClassVar[int]
    DRIVER_VERSION_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    boot_id: str
    pid_namespace: str
    shm_device: str
    gpu_uuid: str
    driver_version: str
    kinds: _containers.RepeatedScalarFieldContainer[ChannelKind]
    def __init__(self, boot_id: _Optional[str] = ..., pid_namespace: _Optional[str] = ..., shm_device: _Optional[str] = ..., gpu_uuid: _Optional[str] = ..., driver_version: _Optional[str] = ..., kinds: _Optional[_Iterable[_Union[ChannelKind, str]]] = ...) -> None: ...

class StepTiming(_message.Message):
    __slots__ = ("queue_ns", "host_ns", "forward_ns", "started_unix_ns")
    QUEUE_NS_FIELD_NUMBER: _ClassVar[int]
    HOST_NS_FIELD_NUMBER: _ClassVar[int]
    FORWARD_NS_FIELD_NUMBER: _ClassVar[int]
    STARTED_UNIX_NS_FIELD_NUMBER: _ClassVar[int]
    queue_ns: int
    host_ns: int
    forward_ns: int
    started_unix_ns: int
    def __init__(self, queue_ns: _Optional[int] = ..., host_ns: _Optional[int] = ..., forward_ns: _Optional[int] = ..., started_unix_ns: _Optional[int] = ...) -> None: ...

class ServiceState(_message.Message):
    __slots__ = ("instance_id", "free_blocks", "sequences", "fed_tokens", "prefix_tokens", "prefix_tokens_found", "prefix_evictions")
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    FREE_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    SEQUENCES_FIELD_NUMBER: _ClassVar[int]
    FED_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_TOKENS_FIELD_NUMBER: _ClassVar[int]
    PREFIX_TOKENS_FOUND_FIELD_NUMBER: _ClassVar[int]
    PREFIX_EVICTIONS_FIELD_NUMBER: _ClassVar[int]
    instance_id: str
    free_blocks: int
    sequences: int
    fed_tokens: int
    prefix_tokens: int
    prefix_tokens_found: int
    prefix_evictions: int
    def __init__(self, instance_id: _Optional[str] = ..., free_blocks: _Optional[int] = ..., sequences: _Optional[int] = ..., fed_tokens: _Optional[int] = ..., prefix_tokens: _Optional[int] = ..., prefix_tokens_found: _Optional[int] = ..., prefix_evictions: _Optional[int] = ...) -> None: ...

class ModelInfo(_message.Message):
    __slots__ = ("model_id", "architecture", "vocab_size", "tokenizer_fingerprint", "max_len", "block_size", "num_blocks", "dtype", "device", "attention_backend", "eos_token_ids", "simulated", "instance_id")
    MODEL_ID_FIELD_NUMBER: _ClassVar[int]
    ARCHITECTURE_FIELD_NUMBER: _ClassVar[int]
    VOCAB_SIZE_FIELD_NUMBER: _ClassVar[int]
    TOKENIZER_FINGERPRINT_FIELD_NUMBER: _ClassVar[int]
    MAX_LEN_FIELD_NUMBER: _ClassVar[int]
    BLOCK_SIZE_FIELD_NUMBER: _ClassVar[int]
    NUM_BLOCKS_FIELD_NUMBER: _ClassVar[int]
    DTYPE_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    ATTENTION_BACKEND_FIELD_NUMBER: _ClassVar[int]
    EOS_TOKEN_IDS_FIELD_NUMBER: _ClassVar[int]
    SIMULATED_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_ID_FIELD_NUMBER: _ClassVar[int]
    model_id: str
    architecture: str
    vocab_size: int
    tokenizer_fingerprint: str
    max_len: int
    block_size: int
    num_blocks: int
    dtype: str
    device: str
    attention_backend: str
    eos_token_ids: _containers.RepeatedScalarFieldContainer[int]
    simulated: bool
    instance_id: str
    def __init__(self, model_id: _Optional[str] = ..., architecture: _Optional[str] = ..., vocab_size: _Optional[int] = ..., tokenizer_fingerprint: _Optional[str] = ..., max_len: _Optional[int] = ..., block_size: _Optional[int] = ..., num_blocks: _Optional[int] = ..., dtype: _Optional[str] = ..., device: _Optional[str] = ..., attention_backend: _Optional[str] = ..., eos_token_ids: _Optional[_Iterable[int]] = ..., simulated: bool = ..., instance_id: _Optional[str] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("model", "state", "host", "payload_bytes_per_draft", "estimates_chances")
    MODEL_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_BYTES_PER_DRAFT_FIELD_NUMBER: _ClassVar[int]
    ESTIMATES_CHANCES_FIELD_NUMBER: _ClassVar[int]
    model: ModelInfo
    state: ServiceState
    host: HostFacts
    payload_bytes_per_draft: int
    estimates_chances: bool
    def __init__(self, model: _Optional[_Union[ModelInfo, _Mapping]] = ..., state: _Optional[_Union[ServiceState, _Mapping]] = ..., host: _Optional[_Union[HostFacts, _Mapping]] = ..., payload_bytes_per_draft: _Optional[int] = ..., estimates_chances: bool = ...) -> None: ...

class Release(_message.Message):
    __slots__ = ("sequence_ids",)
    SEQUENCE_IDS_FIELD_NUMBER: _ClassVar[int]
    sequence_ids: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, sequence_ids: _Optional[_Iterable[int]] = ...) -> None: ...

class Heartbeat(_message.Message):
    __slots__ = ("nonce",)
    NONCE_FIELD_NUMBER: _ClassVar[int]
    nonce: int
    def __init__(self, nonce: _Optional[int] = ...) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason",)
    REASON_FIELD_NUMBER: _ClassVar[int]
    reason: str
    def __init__(self, reason: _Optional[str] = ...) -> None: ...
