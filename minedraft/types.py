"""The nouns that travel between rooms. Torch-free, frozen, slotted.

Lengths and positions count tokens. A sequence's *committed* tokens are its prompt and what was emitted since; the
coordinator owns them, model services only cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

Int32Array = NDArray[np.int32]
FloatArray = NDArray[np.float32] | NDArray[np.float16]

NO_BIAS: Final[Mapping[int, float]] = {}


class AcceptanceRule(Enum):
    """How drafts of a sampled sequence are checked. Both rules emit exactly the target's law."""

    REJECTION = "rejection"
    """Accept draft x when u * q[x] < p[x]. Keeps the most drafts; needs the draft law q."""
    MATCH = "match"
    """Accept a draft when it equals the target's own pick, a function of seed, position and p alone. The output is then
    the same whatever was drafted: chosen for requests that give a seed."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How a request's tokens are drawn. `minedraft.ranges` says what each may be."""

    temperature: float = 1.0  # 0 is greedy
    top_p: float = 1.0  # (0, 1]
    top_k: int = 0  # 0 keeps all
    min_p: float = 0.0  # [0, 1]
    repetition_penalty: float = 1.0  # > 0, over prompt and output
    frequency_penalty: float = 0.0  # [-2, 2], over the output
    presence_penalty: float = 0.0  # [-2, 2], over the output
    logit_bias: Mapping[int, float] = field(default_factory=lambda: NO_BIAS)
    max_new_tokens: int = 256
    min_new_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None  # uint64
    logprobs: int | None = None  # how many alternatives beside the token itself

    @property
    def greedy(self) -> bool:
        return self.temperature == 0.0

    @property
    def changes_logits(self) -> bool:
        """Whether anything but temperature and truncation acts on the logits."""
        return (
            self.repetition_penalty != 1.0
            or self.frequency_penalty != 0.0
            or self.presence_penalty != 0.0
            or bool(self.logit_bias)
            or self.min_new_tokens > 0
        )


@dataclass(frozen=True, slots=True)
class SequenceParams:
    """What a model service must know of a sequence beside its tokens. Fixed for the sequence's life."""

    prompt_len: int
    seed: int  # uint64, keys the counter-based random numbers
    rule: AcceptanceRule
    sampling: SamplingParams


class ItemStatus(IntEnum):
    """How one item of a step ended."""

    OK = 1
    GAP = 2
    """Fewer than base_len tokens are cached; resend from cached_len."""
    NO_SPACE = 3
    """No KV blocks were free."""
    REJECTED = 4
    """The item itself is wrong; see its reason."""


@dataclass(frozen=True, slots=True)
class PointMass:
    """Every draft was certain, given what came before it."""


@dataclass(frozen=True, slots=True)
class TopM:
    """A law with mass on M tokens a position: normalise the weights in float64."""

    token_ids: Int32Array  # [drafts, M], no repeats in a row
    weights: NDArray[np.float32]  # [drafts, M], >= 0, each row with mass


class ChannelKind(Enum):
    """The ways that tensors can take between a drafter and a verifier."""

    INLINE = "inline"
    """Through the gRPC streams and the coordinator, in chunks."""
    SHM = "shm"
    """POSIX shared memory, between processes and containers of one host."""
    GLOO = "gloo"
    """TCP between hosts, by torch.distributed's gloo."""
    CUDA_IPC = "cuda_ipc"
    """One GPU's memory, mapped by both processes."""
    NCCL = "nccl"
    """Between GPUs of one or two hosts."""


@dataclass(frozen=True, slots=True)
class ChannelSpec:
    """A tensor channel as the coordinator names it. Both ends have the same."""

    channel_id: str
    generation: int  # counts the channels between two peers, from 1
    kind: ChannelKind
    slots: int
    slot_bytes: int


@dataclass(frozen=True, slots=True)
class PayloadRef:
    """Where a payload is: what travels over gRPC in place of the tensor."""

    channel_id: str
    generation: int
    slot: int
    sequence: int  # counts the payloads of the channel, from 1
    nbytes: int
    dtype: str  # torch's name, for example "float16"
    shape: tuple[int, ...]


class ChannelRole(Enum):
    """Which end of a channel a service holds."""

    SENDER = "sender"
    RECEIVER = "receiver"


class ChannelAction(Enum):
    """One step of opening, trying or closing a channel. See `minedraft.channel.base`."""

    OFFER = "offer"
    JOIN = "join"
    SEAL = "seal"
    PROBE_WRITE = "probe_write"
    PROBE_READ = "probe_read"
    CLOSE = "close"


@dataclass(frozen=True, slots=True)
class ChannelRequest:
    """Asks a service to do its part for a channel."""

    spec: ChannelSpec
    role: ChannelRole
    action: ChannelAction
    data: bytes = b""  # what the other end answered, or the bytes to send
    reference: PayloadRef | None = None  # the payload to read


@dataclass(frozen=True, slots=True)
class ChannelAnswer:
    """Answers a ChannelRequest that succeeded; a failure is a ChannelError."""

    data: bytes = b""
    reference: PayloadRef | None = None


@dataclass(frozen=True, slots=True)
class ChannelFault:
    """Payloads could not be sent or read. Stale when the channel has a later generation."""

    channel_id: str
    generation: int
    reason: str


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Where a service runs, as far as the choice of a channel depends on it."""

    boot_id: str = ""  # the same for all processes of one running kernel
    pid_namespace: str = ""  # the same for processes that see each other
    shm_device: str = ""  # file system of the folder for shared memory
    gpu_uuid: str = ""  # "" on a CPU
    driver_version: str = ""
    kinds: tuple[ChannelKind, ...] = ()  # what the service can open


@dataclass(frozen=True, slots=True)
class PayloadChunk:
    """A piece of a payload on an inline channel."""

    channel_id: str
    generation: int
    slot: int
    sequence: int
    nbytes: int  # of the whole payload
    offset: int  # of this piece in the payload, bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Dense:
    """A law over the whole vocabulary: normalise the weights in float64."""

    weights: FloatArray | PayloadRef  # [drafts, V], >= 0, each row with mass


DraftLaw = PointMass | TopM | Dense


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a drafter proposes for one sequence. An empty proposal is always right."""

    sequence_id: int
    token_ids: tuple[int, ...] = ()
    law: DraftLaw = PointMass()
    status: ItemStatus = ItemStatus.OK
    cached_len: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class DraftItem:
    """One sequence's part of a draft step."""

    sequence_id: int
    base_len: int  # committed tokens that the service confirmed
    tail_token_ids: tuple[int, ...]  # committed tokens from base_len on, at least one
    params: SequenceParams | None  # must be given when base_len is 0
    max_draft_tokens: int  # 0 only fills the cache
    least_chance: float = 0.0  # that a draft must have of being kept, with all before it, to be proposed
    traceparent: str = ""  # W3C trace context of the request's present phase; "" unless it is traced


@dataclass(frozen=True, slots=True)
class VerifyItem:
    """One sequence's part of a verify step. Prefill is an item without drafts."""

    sequence_id: int
    base_len: int
    tail_token_ids: tuple[int, ...]
    params: SequenceParams | None
    proposal: Proposal | None = None
    emit: bool = True  # False for a chunk of a prompt that is not its last
    traceparent: str = ""  # see DraftItem


StepItem = DraftItem | VerifyItem


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """One token's log-probability under the target, before temperature, penalties and truncation."""

    token_id: int
    logprob: float
    top_token_ids: tuple[int, ...] = ()  # likeliest first
    top_logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is kept of one proposal."""

    sequence_id: int
    accepted_len: int = 0
    next_token_id: int | None = None  # recovered or bonus token; None without emit or when status is not OK
    logprobs: tuple[TokenLogprobs, ...] = ()  # one for each emitted token, when asked for
    status: ItemStatus = ItemStatus.OK
    cached_len: int = 0
    reason: str = ""


StepResult = Proposal | Verdict


@dataclass(frozen=True, slots=True)
class StepTiming:
    """Where a step's time went, nanoseconds."""

    queue_ns: int
    host_ns: int
    forward_ns: int
    started_unix_ns: int


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What a model service holds at this moment."""

    instance_id: str
    free_blocks: int
    sequences: int
    # Since the process started, tokens but for the last:
    fed_tokens: int = 0  # through the model
    prefix_tokens: int = 0  # in whole blocks that were looked for before they were fed
    prefix_tokens_found: int = 0  # of those: another sequence had computed them
    prefix_evictions: int = 0  # blocks that could be found and were given to somebody else


@dataclass(frozen=True, slots=True)
class DraftReply:
    """Answers a draft step: one proposal for each item, in the same order."""

    step_id: int
    proposals: tuple[Proposal, ...]
    timing: StepTiming
    state: ServiceState
    channel_fault: ChannelFault | None = None


@dataclass(frozen=True, slots=True)
class VerifyReply:
    """Answers a verify step: one verdict for each item, in the same order."""

    step_id: int
    verdicts: tuple[Verdict, ...]
    timing: StepTiming
    state: ServiceState
    channel_fault: ChannelFault | None = None


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """The model that a service runs and the room it has."""

    model_id: str
    architecture: str  # model type, for example "llama"; "ngram" for a drafter without a model
    vocab_size: int  # number of logits
    tokenizer_fingerprint: str  # "" fits any
    max_len: int
    block_size: int
    num_blocks: int
    dtype: str
    device: str
    attention_backend: str
    eos_token_ids: tuple[int, ...] = ()
    simulated: bool = False
    instance_id: str = ""  # names the process; a restart changes it


@dataclass(frozen=True, slots=True)
class Welcome:
    """What a model service says of itself at the begin of every stream."""

    model: ModelInfo
    state: ServiceState
    host: HostFacts = HostFacts()
    payload_bytes_per_draft: int = 0  # what a drafter sends over a tensor channel for each draft
    estimates_chances: bool = False  # whether a drafter heeds `DraftItem.least_chance`


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A tokenizer as it travels: enough to tokenise, detokenise and render chats without torch or transformers."""

    tokenizer_json: bytes
    chat_template: str  # "" when the model has none
    special_tokens: Mapping[str, str]
    fingerprint: str
