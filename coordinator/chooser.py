"""Chooses how many drafts a round asks for and how many lanes run, from what rounds were seen to take. Pure.

Every lane reports its rounds here and takes K from here. `coordinator.lessons` learns from them, `coordinator.scores`
ranks the modes. A mode that was never seen, or not for long, gets a short trial when it might be the best, within the
budget for trials.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from coordinator.acceptance import RECENT, Acceptance
from coordinator.budget import Budget
from coordinator.cadence import Cadence
from coordinator.choice import Forecast, Load, Mode
from coordinator.lessons import Lessons
from coordinator.looks import Looks
from coordinator.request import Request
from coordinator.round import Round
from coordinator.scores import Scores, best_of, solve
from coordinator.threshold import Threshold
from coordinator.trial import Trial, shortest
from minedraft.generation import ChoiceInfo

GAIN: Final = 0.05  # summed over decisions in a row before the mode changes
LEAST_GAIN: Final = 0.005  # a decision's gain that counts at all
ALIKE: Final = 1.4  # loads that differ by less than this factor are alike
JUMP: Final = 0.03  # gain at which the mode changes at once when the load has, or that a look at drafts must promise
WORTH_SECONDS: Final = 1.0  # within which drafts are to bring back what the drafter needs to catch up
TRIAL_ROUNDS: Final = 4  # settled rounds of each lane in a trial
REST: Final = 1  # decisions between trials, beside the one at the end of a trial
LONGEST_TRIAL: Final = 48  # rounds of each lane
OPENING_ROUNDS: Final = 3  # of each mode
PLAIN: Final = 5  # rounds with prompts in them that count as much as one without
RESTED: Final = 0.999  # what is left of the evidence on acceptance after a round without drafts


class Chooser:
    """K and lanes for every round. All calls are made on the event loop; the caller brings the time, seconds."""

    def __init__(
        self, lanes: Sequence[int], draft_tokens: Sequence[int], tell: Callable[[ChoiceInfo], None] = lambda _: None
    ) -> None:
        """What may be chosen; one number each where nothing is to be. `tell` hears of every change."""
        self._tell = tell
        self._modes = [Mode(count, drafts) for count in sorted(lanes) for drafts in sorted(draft_tokens)]
        self.most_draft_tokens = max(draft_tokens)
        self._lessons = Lessons()
        self.pace, self.experience = self._lessons.pace, self._lessons.experience
        self._threshold = Threshold(self.most_draft_tokens)
        self._selective = False  # whether drafts of little chance are left out
        self._may_choose = len(draft_tokens) > 1  # K drafts mean K where they were asked for by number
        self._first = [] if self.fixed else _opening(min(lanes), draft_tokens)
        self._opening = list(self._first)
        self._mode = self._modes[-1] if self.fixed else self._opening[0]
        self._opened = 0
        self._trial: Trial | None = None
        self._rests = 0  # decisions until the next trial may begin
        self._looks = Looks()  # at drafts, while there are none
        self._load = Load(0)
        self._drafter = 0
        self._tick = 0
        self._cadence = Cadence()
        self._evidence = 0.0
        self._adapted = 0  # requests in flight when the load was last said to have changed
        self._moved = False  # whether it has, since the last decision
        self._least = self._usual = 0.0
        self._budget = Budget()  # for trials
        self._behind = 0.0  # tokens that the drafter lacks, of all requests in flight
        self._forecast: Forecast | None = None
        self._reason = "fixed" if self.fixed else "measuring"
        self._changes = self._trials = 0

    @property
    def fixed(self) -> bool:
        return len(self._modes) == 1

    @property
    def _bucket(self) -> int:
        return self.experience.bucket(self._load.requests)

    @property
    def _lanes(self) -> int:
        """That run now, and hold requests."""
        return max(1, min(self.mode.lanes, self._load.requests))

    @property
    def acceptance(self) -> Acceptance:
        return self._threshold.acceptance

    @property
    def mode(self) -> Mode:
        """What runs now, trials included."""
        if self._opening:
            return self._opening[0]
        return self._trial.mode if self._trial else self._mode

    # --- what a lane calls ---

    def begin(
        self,
        lane: int,
        requests: Sequence[Request],
        in_flight: int,
        drafter: int,
        now: float,
        *,
        selective: bool = False,
    ) -> Round:
        """A lane's next round. `drafter` is the generation of a drafter that can be asked, 0 without one; it may be
        `selective`, that is, leave out drafts of little chance."""
        self._selective = selective and self._may_choose
        if not self.fixed:
            self._follow(requests, in_flight, drafter)
        mode = self.mode if drafter else replace(self.mode, draft_tokens=0)
        narrow = None
        if self._trial and self._trial.narrow:
            narrow = shortest(requests, drafter)
        current = Round(lane, mode, len(requests), in_flight, now, self.most_draft_tokens + 1, narrow)
        self._lessons.begin(current)
        return current

    def drafts(self, current: Round, request: Request) -> int:
        """How many drafts to ask for, for a request of this round."""
        wanted = min(current.mode.draft_tokens, request.max_draft_tokens)
        if wanted == 0 or not self._may_choose:
            return wanted
        if current.narrow is not None:
            return wanted if request.id in current.narrow else 0
        worth = request.acceptance.worthwhile(wanted, self._usual, self._least)
        if worth == 0:
            request.acceptance.rest()
            self.acceptance.add(wanted, 0, 0)
        return worth

    @property
    def least_chance(self) -> float:
        """That a draft must have of being kept with all before it."""
        return self._threshold.least

    def judged(self, current: Round, request: Request, proposed: int, accepted: int) -> None:
        """A request's drafts were verified."""
        current.emitted += accepted + 1
        asked = current.asked.get(request.id, 0)
        if asked and not self.fixed:
            request.acceptance.add(proposed if self._selective else asked, accepted)
            self.acceptance.add(asked, accepted, proposed)

    @property
    def due(self) -> bool:
        """Whether it is time for `decide`. It takes milliseconds: call it while the services are at work."""
        return not self.fixed and not self._opening and self._cadence.due(self._tick, self._lanes)

    def end(self, current: Round, now: float) -> None:
        """A round is over, with what it noted."""
        if self.fixed:
            return
        self._tick += 1
        elapsed = now - current.began
        self._budget.serve(elapsed / current.lanes)
        settled = self._lessons.end(current, elapsed, self._load.drafting, self._tick, opening=bool(self._opening))
        if current.mode.draft_tokens == 0:
            self._threshold.rest(RESTED)
        if self._opening:
            self._open(current)
        elif self._trial is not None and current.mode == self._trial.mode:
            self._try(self._trial, current, elapsed / current.lanes, settled)
        elif self._trial is None:
            self._budget.end_round(elapsed / current.lanes, current.emitted)

    def decide(self) -> None:
        """Weigh the modes; keep the present one, change it, or begin a trial."""
        counts = self._cadence.begin(self._tick, self._lanes)
        if self.fixed or self._opening or self._trial is not None:
            return
        if self._load.requests == 0 or not self.pace.verify.known:
            return
        scores = self._scores()
        rates = self._weigh(scores)
        moved, self._moved = self._moved, False
        self._compare(scores, rates, counts, moved)
        self._forecast = scores.expect(self._mode, self.acceptance.outlook())
        if not moved:
            self._rests -= 1
            self._looks.decide(self._bucket, counts)
            if self._rests < 0 and self._budget.allows(self._forecast.cycle_seconds):
                self._consider_trial(scores, rates, self._forecast.cycle_seconds)
        if moved or self._evidence > 0.0 or self._trial is not None:
            self._cadence.stir()
        else:
            self._cadence.calm()

    def describe(self) -> ChoiceInfo:
        """What is chosen now, and why."""
        found = self._forecast
        return ChoiceInfo(
            lanes=self.mode.lanes,
            draft_tokens=self.mode.draft_tokens,
            auto_lanes=len({mode.lanes for mode in self._modes}) > 1,
            auto_draft_tokens=len({mode.draft_tokens for mode in self._modes}) > 1,
            reason=self._reason if self._trial is None else f"trial of {self._trial.mode}; else {self._mode}",
            draft_seconds=found.draft_seconds if found else 0.0,
            verify_seconds=found.verify_seconds if found else 0.0,
            around_seconds=found.around_seconds if found else 0.0,
            tokens_per_second=found.tokens_per_second if found else 0.0,
            acceptance=self.acceptance.by_place() if not self.fixed else (),
            changes=self._changes,
            trials=self._trials,
            trial_seconds=self._budget.lost,
        )

    # --- following the load ---

    def _follow(self, requests: Sequence[Request], in_flight: int, drafter: int) -> None:
        """Take note of the load; decide soon when it is another one."""
        able = sum(request.max_draft_tokens > 0 for request in requests) / len(requests)
        share = able if self._load.requests == 0 else self._load.drafting + (able - self._load.drafting) * 0.2
        changed = drafter != self._drafter or not 1 / ALIKE < in_flight / max(self._adapted, 0.1) < ALIKE
        if drafter != self._drafter:
            if not self.pace.draft.known:
                self._opening = list(self._first)
            self.pace.draft.doubt()
            self._looks.forget_all()
            self._drafter = drafter
        self._load = Load(in_flight, share, self._lessons.prompts)
        missing = 0 if self._mode.draft_tokens else sum(r.tail_len(r.draft_cache, drafter) for r in requests)
        self._behind = missing * in_flight / len(requests)
        if changed:
            if self._trial is not None:
                self._end_trial(self._trial)
            self._move()

    def _move(self) -> None:
        """The load is another one."""
        self._adapted = self._load.requests
        self._moved = True
        self._cadence.hasten()

    # --- opening and trials ---

    def _open(self, current: Round) -> None:
        """The first rounds look at a few modes that the model can start from."""
        if not self._drafter:
            self._opening = []
        elif current.mode == self._opening[0]:
            self._opened += 1 if current.prefills else PLAIN
            if self._opened >= OPENING_ROUNDS * PLAIN:
                self._opened = 0
                del self._opening[0]
        if not self._opening:
            self._move()

    def _consider_trial(self, scores: Scores, rates: dict[Mode, float], cycle: float) -> None:
        """Begin a trial of the mode that may be the best, if one may be better than the present one."""
        here = rates[self._mode]
        slack = {mode: self.experience.slack(mode, self._load.requests, self._tick) for mode in rates}
        hopes = {mode: rate * (1.0 + slack[mode]) for mode, rate in rates.items() if mode != self._mode}
        best = max(hopes, key=lambda mode: hopes[mode], default=None)
        if best is not None and hopes[best] > here and self._budget.allows(cycle, self._catching_up(best)):
            self._begin_trial(Trial(best, here, cycle))
        elif self._mode.draft_tokens == 0 and self._drafter and self._looks.due(self._bucket):
            hoped = scores.rates(self.acceptance.outlook(self.acceptance.doubt()))
            likely = [mode for mode in hoped if mode.lanes == self._mode.lanes and 0 < mode.draft_tokens <= 2]
            if max(hoped.values()) > here * (1.0 + JUMP) and likely:
                self._begin_trial(Trial(max(likely, key=lambda mode: hoped[mode]), here, cycle, narrow=True))
                self._looks.look(self._bucket)

    def _begin_trial(self, trial: Trial) -> None:
        self._trial = trial
        self._trials += 1

    def _try(self, trial: Trial, current: Round, seconds: float, settled: bool) -> None:
        """One more round of a trial."""
        trial.rounds += 1
        trial.settled += settled or (trial.narrow and current.drafting > 0)
        trial.seconds += seconds
        trial.tokens += current.emitted
        lanes = max(1, min(trial.mode.lanes, self._load.requests))
        if trial.settled >= TRIAL_ROUNDS * lanes or trial.rounds >= LONGEST_TRIAL * lanes:
            self._end_trial(trial)
            self._cadence.hasten()

    def _end_trial(self, trial: Trial) -> None:
        self._budget.end_trial(trial.seconds, trial.tokens, trial.rate, trial.mode.lanes, trial.cycle_seconds)
        if trial.settled == 0:
            self.experience.skip(trial.mode, self._load.requests, self._tick)
        self._trial = None
        self._rests = REST

    # --- comparing ---

    def _compare(self, scores: Scores, rates: dict[Mode, float], counts: float, moved: bool) -> None:
        """Take the best mode when it was better for long enough, or the load has moved; a decision `counts` for many
        where there were none for a while."""
        best = best_of(rates)
        if self._mode not in rates:
            self._change(scores, best, "the load has changed")
        gain = rates[best] / rates[self._mode] - 1.0
        cost = self._catching_up(best) / WORTH_SECONDS
        if moved:  # what the model says is done at once
            self._evidence = 0.0
            if gain > JUMP + cost:
                self._change(scores, best, f"{self._load.requests} requests in flight")
        elif gain < LEAST_GAIN:
            self._evidence = 0.0
        elif self.experience.seen(best, self._load.requests, self._tick) >= 1.0 or self._mode.draft_tokens == 0:
            self._evidence += gain * counts
            if self._evidence >= GAIN + cost:
                self._change(scores, best, f"{100 * gain:.0f} % more than {self._mode}")

    def _scores(self) -> Scores:
        """How the modes that are possible now compare, by laws fitted anew."""
        requests = self._load.requests
        drafting = self._drafter > 0 and self._load.drafting > 0.0
        possible = [
            mode
            for mode in self._modes
            if mode.lanes <= max(requests, self._modes[0].lanes) and (drafting or mode.draft_tokens == 0)
        ] or [replace(self._modes[0], draft_tokens=0)]
        solve(self.pace, possible, requests, self._tick)
        return Scores(possible, self._load, self.pace, self.experience, self._tick)

    def _weigh(self, scores: Scores) -> dict[Mode, float]:
        """Tokens a second of each mode, and from now on the threshold that goes with them."""
        outlook = self.acceptance.outlook()
        rates = scores.rates(outlook)
        if any(mode.draft_tokens > 0 for mode in rates):  # else the threshold stays for when there are again
            self._least = scores.least_chance(rates, outlook)
            known = self.acceptance.evidence >= RECENT  # else a request would be compared with luck
            self._usual = outlook.kept[0] if known else 0.0
            self._threshold.choose(self._least if self._selective else 0.0)
        return rates

    def _catching_up(self, mode: Mode) -> float:
        """Seconds that the drafter needs for what was not fed to it without drafts, before it can make any."""
        if mode.draft_tokens == 0 or self._mode.draft_tokens > 0:
            return 0.0
        lanes = max(1, min(mode.lanes, self._load.requests))
        return self.pace.prompt_seconds(lanes, self._behind, drafts=True)[0]

    def _change(self, scores: Scores, mode: Mode, reason: str) -> None:
        self._evidence = 0.0
        if mode == self._mode:
            return
        self._mode, self._reason = mode, reason
        self._cadence.stir()
        if mode.draft_tokens > 0:
            self._looks.forget(self._bucket)
        self._changes += 1
        self._forecast = scores.expect(mode, self.acceptance.outlook())
        self._tell(self.describe())


def _opening(lanes: int, draft_tokens: Sequence[int]) -> list[Mode]:
    """Modes that span what may be chosen: a few drafts, none, more."""
    most = max(draft_tokens)
    some = {min(2, most), 0, min(5, most)} & set(draft_tokens) or {most}
    return [Mode(lanes, count) for count in sorted(some, key=lambda count: (count == 0, count > 2))]
