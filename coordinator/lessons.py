"""What rounds teach: the laws of step times, what modes were seen to do, and how much of a round is prompts. Pure."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from coordinator.choice import Mode
from coordinator.experience import Experience
from coordinator.pace import Pace, Setting
from coordinator.round import Round, is_settled

PROMPT_ROUNDS: Final = 256.0  # that the average of prompt tokens remembers
MOST_PREFILL: Final = 0.3  # of a round: what prompts take is known less well than the rest


class Lessons:
    """Mutated by `begin` and `end`, which a lane's rounds go through in order."""

    def __init__(self) -> None:
        self.pace = Pace()
        self.experience = Experience()
        self._last: dict[int, tuple[Mode, int]] = {}  # mode and size of a lane's round before
        self._prefilled = 0.0  # seconds that prompts took, of all lanes
        self._prompt_tokens = self._emitted_tokens = 0.0  # of a round, on average

    @property
    def prompts(self) -> float:
        """Prompt tokens that are fed for each token emitted."""
        return self._prompt_tokens / max(self._emitted_tokens, 1.0)

    def begin(self, current: Round) -> None:
        """A round begins."""
        current.prefilled_before = self._prefilled

    def end(self, current: Round, elapsed: float, drafting: float, tick: int, *, opening: bool) -> bool:
        """A round is over; whether it was what its mode looks like in the long run. `drafting` is the share of requests
        that may have drafts. What modes do while the first are looked at (`opening`) is not kept."""
        lanes = current.lanes
        spent = current.seconds(elapsed)
        before, self._last[current.lane] = self._last.get(current.lane), (current.mode, current.items)
        if before is not None and before[0].lanes == current.mode.lanes:
            self._time(current, lanes, *spent, tick)
        prefill = self._prefill(current, lanes)
        self._prefilled += prefill
        wanted = current.items * drafting
        settled = before is not None and is_settled(current, before, lanes, wanted) and prefill < MOST_PREFILL * elapsed
        if settled and current.narrow is None and not opening:
            plain = elapsed - (self._prefilled - current.prefilled_before)
            usual = max(plain, 0.25 * elapsed) * self.pace.usual_share(*spent)
            self.experience.add(current.mode, current.in_flight, usual, current.work, tick)
        return settled

    def _time(self, current: Round, lanes: int, drafted: float, verified: float, around: float, tick: int) -> None:
        """Step times, by setting."""
        if current.verify_timing is None:
            return
        tokens, prefill = current.verify_work
        drafts = current.mode.draft_tokens if current.draft_work[1] else 0
        setting = Setting.of(lanes, current.items, drafts, prefill)
        self.pace.verified(setting, tokens, prefill, verified, tick)
        if current.draft_timing is not None:
            passes, drawn, prompts = current.draft_work
            asked = Setting.of(lanes, current.items, drafts, prompts)
            self.pace.drafted(asked, passes, drawn, prompts, drafted, tick)
        self.pace.spent_around(replace(setting, prefill=0), around, tick)

    def _prefill(self, current: Round, lanes: int) -> float:
        """Seconds that prompts took in this round; what is fed for each token emitted is noted."""
        prompts = current.verify_work[1]
        self._prompt_tokens += (prompts - self._prompt_tokens) / PROMPT_ROUNDS
        self._emitted_tokens += (current.emitted - self._emitted_tokens) / PROMPT_ROUNDS
        drafter = self.pace.prompt_seconds(lanes, current.draft_work[2], drafts=True)[0]
        return drafter + self.pace.prompt_seconds(lanes, prompts, drafts=False)[1]
