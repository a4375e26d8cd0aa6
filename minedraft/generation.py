"""The nouns of the public face: what a client asks for and what it gets. Torch-free, frozen, slotted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from minedraft.types import ModelInfo, SamplingParams, ServiceState, StepTiming, TokenLogprobs


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, rendered through the model's chat template."""

    messages: tuple[ChatMessage, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """A prompt that is tokenised as it stands."""

    text: str


@dataclass(frozen=True, slots=True)
class TokenIds:
    """A prompt that is taken as it is."""

    ids: tuple[int, ...]


Prompt = Text | Chat | TokenIds


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One generation. `sampling.max_new_tokens` 0 means the server's default."""

    prompt: Prompt
    sampling: SamplingParams
    model: str = ""  # "" takes whatever is served
    request_id: str = ""  # "" lets the server make one up
    max_draft_tokens: int | None = None  # caps K for this request; 0 switches speculation off
    trace_headers: tuple[tuple[str, str], ...] = ()  # W3C trace context, names in lower case: sent as metadata


class FinishReason(IntEnum):
    """Why a generation ended."""

    EOS = 1
    STOP = 2
    """A stop string or a stop token id appeared."""
    LENGTH = 3
    """max_new_tokens or the context was reached."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one generation."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class SpeculationStats:
    """What speculation did, for a request or for a server since its start."""

    rounds: int = 0  # verifications that emitted tokens
    drafted_rounds: int = 0  # those that checked at least one draft
    draft_tokens: int = 0  # drafts checked
    accepted_tokens: int = 0  # drafts kept
    accepted_by_position: tuple[int, ...] = ()
    drafted_by_position: tuple[int, ...] = ()
    emitted_tokens: int = 0  # accepted drafts and the one token that each verification gives

    @property
    def acceptance_length(self) -> float:
        """Tokens emitted by a verification, on average: accepted drafts + 1. 0 before the first."""
        return self.emitted_tokens / self.rounds if self.rounds else 0.0


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of the output; the last piece has finish_reason, usage and speculation."""

    request_id: str
    text: str = ""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[TokenLogprobs, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    speculation: SpeculationStats | None = None

    @classmethod
    def merged(cls, pieces: Sequence[Output]) -> Output:
        """Several pieces in a row as one, at least one."""
        last = pieces[-1]
        return cls(
            last.request_id,
            "".join(piece.text for piece in pieces),
            tuple(token for piece in pieces for token in piece.token_ids),
            tuple(entry for piece in pieces for entry in piece.logprobs),
            last.finish_reason,
            last.usage,
            last.speculation,
        )


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """What the coordinator knows of a model service."""

    address: str  # "" when the server runs without one
    connected: bool
    model: ModelInfo | None
    refusal: str  # why a reachable service is not used, "" otherwise
    state: ServiceState | None
    connections: int
    channel: str = ""  # kind of the tensor channel between drafter and verifier, "" when none is open
    channel_note: str = ""  # why it is this one, or why there is none
    channel_generation: int = 0  # counts the channels that were opened
    payloads: int = 0  # dense laws that went over a channel
    payloads_replaced: int = 0  # dense laws that were replaced by top-M ones: no channel was open, or its slots taken


@dataclass(frozen=True, slots=True)
class LaneInfo:
    """One lane at this moment."""

    lane: int
    requests: int
    rounds: int
    verifier: str = ""  # addresses
    drafter: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What requests are held to."""

    max_len: int
    lanes: int
    lane_size: int
    queue_size: int
    draft_tokens: int
    prefill_chunk: int


@dataclass(frozen=True, slots=True)
class Activity:
    """How busy drafters and verifiers were since the start, seconds of engine time, summed over all of a kind."""

    wall_seconds: float = 0.0
    verifier_forward_seconds: float = 0.0
    drafter_forward_seconds: float = 0.0
    verifier_busy_seconds: float = 0.0  # forward passes and the host work of the steps
    drafter_busy_seconds: float = 0.0
    overlap_seconds: float = 0.0  # a drafter and a verifier at work, summed over the pairs
    verifications: int = 0
    drafts: int = 0


@dataclass(frozen=True, slots=True)
class ChoiceInfo:
    """How many lanes run and how many drafts a round asks for now, and why. Times are forecasts, seconds."""

    lanes: int = 0
    draft_tokens: int = 0
    auto_lanes: bool = False  # chosen by measurement, not by a setting
    auto_draft_tokens: bool = False
    reason: str = ""
    draft_seconds: float = 0.0  # t, a draft step of a lane; 0 while nothing was measured
    verify_seconds: float = 0.0  # V, a verification of a lane
    around_seconds: float = 0.0  # round trips and the lane's own work, a round
    tokens_per_second: float = 0.0
    acceptance: tuple[float, ...] = ()  # chance of a draft at each place, when those before it were kept
    changes: int = 0  # how often another mode was chosen
    trials: int = 0  # how often one was tried
    trial_seconds: float = 0.0  # what trials have cost


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server at this moment."""

    version: str
    target: ModelInfo | None
    drafters: tuple[PeerInfo, ...]
    verifiers: tuple[PeerInfo, ...]
    lanes: tuple[LaneInfo, ...]
    limits: Limits
    queued_requests: int
    speculation: SpeculationStats
    activity: Activity
    finished_requests: int
    aborted_requests: int
    choices: tuple[ChoiceInfo, ...] = ()  # of each verifier in turn

    @property
    def drafter(self) -> PeerInfo:
        """The first drafter in use, or the first; an empty one when none is wanted."""
        return _first(self.drafters)

    @property
    def verifier(self) -> PeerInfo:
        """The first verifier in use, or the first; an empty one when none is known yet."""
        return _first(self.verifiers)

    @property
    def choice(self) -> ChoiceInfo:
        """The first verifier's."""
        return self.choices[0] if self.choices else ChoiceInfo()


def _first(peers: tuple[PeerInfo, ...]) -> PeerInfo:
    nobody = PeerInfo(address="", connected=False, model=None, refusal="", state=None, connections=0)
    return next((peer for peer in peers if peer.connected), peers[0] if peers else nobody)


class StepKind(IntEnum):
    """Which service a step ran on."""

    DRAFT = 1
    VERIFY = 2


@dataclass(frozen=True, slots=True)
class TimelineStep:
    """One answered step of a drafter or a verifier."""

    number: int  # counts the steps of all lanes since the start, from 1
    kind: StepKind
    lane: int
    service: str  # its address
    step_id: int
    items: int
    timing: StepTiming  # on the service's clock
    draft_tokens: int  # drafts proposed or checked
    accepted_tokens: int  # drafts kept
    received_unix_ns: int  # when the reply came, on the coordinator's clock

    @property
    def started_ns(self) -> int:
        """When the engine took it up, Unix nanoseconds."""
        return self.timing.started_unix_ns

    @property
    def ended_ns(self) -> int:
        return self.timing.started_unix_ns + self.timing.host_ns + self.timing.forward_ns


@dataclass(frozen=True, slots=True)
class TimelinePage:
    """Steps in the order in which their replies came. A gap in their numbers: steps were forgotten meanwhile."""

    steps: tuple[TimelineStep, ...]
    newest: int  # number of the newest step that is known; 0 before the first
