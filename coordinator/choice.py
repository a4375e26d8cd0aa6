"""How many tokens a second a mode gives: the formula behind `--lanes auto --draft-tokens auto`. Pure.

Between verifications pass max(V, t, (t + V + rtt + o) / D) seconds with D lanes on one drafter and one verifier. Said
for lanes that need not be equal: in a cycle each lane has one round; the verifier works through the lanes one
after the other, so does the drafter, and no lane is faster than its own round. A cycle emits E(K) tokens for each of
the n requests, and new requests bring prompts that are fed in between.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from coordinator.acceptance import Outlook, Work
from coordinator.pace import Pace, Setting


@dataclass(frozen=True, slots=True, order=True)
class Mode:
    """What is chosen."""

    lanes: int  # D
    draft_tokens: int  # K; 0 is plain decoding

    def __str__(self) -> str:
        return f"{self.lanes} lane{'s' if self.lanes > 1 else ''}, K={self.draft_tokens}"


@dataclass(frozen=True, slots=True)
class Load:
    """What has to be served."""

    requests: int  # n, in flight
    drafting: float = 1.0  # the share of them that may have drafts
    prompts: float = 0.0  # prompt tokens that are fed for each token emitted


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a mode is expected to do."""

    cycle_seconds: float  # from one round of a lane to its next
    draft_seconds: float  # t of the largest lane
    verify_seconds: float  # V of the largest lane
    around_seconds: float  # rtt + o of the largest lane
    tokens: float  # in a cycle, all requests together

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.cycle_seconds


def lane_sizes(requests: int, lanes: int) -> list[int]:
    """As admission balances them: sizes that differ by one at most, largest first, none empty."""
    small, larger = divmod(requests, lanes)
    return [small + (lane < larger) for lane in range(lanes) if small + (lane < larger)]


def forecast(mode: Mode, load: Load, pace: Pace, outlook: Outlook) -> Forecast:
    """By the formula above."""
    tokens = load.requests * (1.0 + load.drafting * (outlook.emitted(mode.draft_tokens) - 1.0))
    return _cycle(mode, load, pace, lambda requests: outlook.work(mode.draft_tokens, requests), tokens)


def seconds_for(mode: Mode, requests: float, pace: Pace, work: Work) -> float:
    """A cycle of `requests` requests, without prompts, whose rounds are fed so much."""
    return _cycle(mode, Load(round(requests)), pace, lambda _: work, 0.0).cycle_seconds


def _cycle(mode: Mode, load: Load, pace: Pace, work: Callable[[float], Work], tokens: float) -> Forecast:
    """`work` tells what is done for so many requests that are drafted for; `tokens` are emitted."""
    sizes = lane_sizes(load.requests, mode.lanes)
    parts = {}
    for size in set(sizes):
        setting = Setting(len(sizes), size, mode.draft_tokens)
        drafting = size * load.drafting
        done = work(drafting)
        draft = pace.draft_seconds(setting, done.passes, drafting * done.drawn)
        verify = pace.verify_seconds(setting, size + drafting * done.verified)
        parts[size] = (draft, verify, pace.around_seconds(setting))
    fed = pace.prompt_seconds(len(sizes), load.prompts * tokens, drafts=mode.draft_tokens > 0)
    drafts, verifications = (sum(parts[size][which] for size in sizes) + fed[which] for which in (0, 1))
    cycle = max(verifications, drafts, max(map(sum, parts.values())) + sum(fed) / len(sizes))
    return Forecast(cycle, *parts[sizes[0]], tokens=tokens)
