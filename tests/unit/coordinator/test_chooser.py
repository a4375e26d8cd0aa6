"""The chooser amid real lanes, before timed services on a virtual clock: what it settles on, and what that costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from coordinator.choice import Mode
from coordinator.chooser import Chooser
from coordinator.scores import Scores
from minedraft.generation import ChoiceInfo
from tests.unit.coordinator import virtual_time
from tests.unit.coordinator.timed import ClosedLoop, Devices

MS = 1e-3
ALL_LANES, ALL_DRAFTS = range(1, 5), range(9)


def constant(draft: float, verify: float, trip: float = 0.5, shared: float = 0.0) -> Devices:
    """`draft` ms a pass, `verify` ms a verification, whatever is fed."""
    return Devices(lambda _, passes, *__: passes * draft * MS, lambda *_: verify * MS, trip * MS, shared)


def linear(draft: float, fixed: float, token: float) -> Devices:
    """A verification costs `fixed` ms and `token` ms for each token."""
    return Devices(
        lambda _, passes, *__: passes * draft * MS, lambda _, tokens: (fixed + token * tokens) * MS, 0.5 * MS
    )


def always(chance: float) -> Callable[[float], float]:
    return lambda _: chance


def rate(
    devices: Devices,
    accept: Callable[[float], float],
    requests: int,
    *,
    lanes: Sequence[int] = ALL_LANES,
    drafts: Sequence[int] = ALL_DRAFTS,
    warm: int = 2000,
    tokens: int = 5000,
) -> tuple[float, Chooser]:
    """Tokens a second after a warm-up, and the chooser."""

    async def main() -> tuple[float, Chooser]:
        chooser = Chooser(lanes, drafts)
        async with ClosedLoop(devices, accept, chooser, lanes=max(lanes)) as loop:
            loop.load(requests)
            early, begin = await loop.until(warm)
            late, end = await loop.until(warm + tokens)
        return (late - early) / (end - begin), chooser

    return virtual_time.run(main())


def best_fixed(devices: Devices, accept: Callable[[float], float], requests: int) -> tuple[float, Mode]:
    found = {
        Mode(lanes, drafts): rate(devices, accept, requests, lanes=[lanes], drafts=[drafts])[0]
        for lanes in (1, 2)
        for drafts in (0, 1, 2, 4, 8)
    }
    best = max(found, key=lambda mode: found[mode])
    return found[best], best


@pytest.mark.parametrize(
    ("devices", "chance", "requests"),
    [
        (constant(6, 20), 0.8, 8),  # drafting and verification balanced
        (constant(1, 40), 0.9, 4),  # cheap drafts
        (constant(15, 10), 0.3, 4),  # dear drafts that are rarely kept
        (linear(1, 4, 1.5), 0.6, 16),  # a CPU: verification grows with every token
        (constant(2, 20, trip=15), 0.7, 8),  # far away
    ],
)
def test_auto_comes_close_to_the_best_fixed_choice(devices: Devices, chance: float, requests: int) -> None:
    best, mode = best_fixed(devices, always(chance), requests)
    auto, chooser = rate(devices, always(chance), requests, warm=int(30 * best))  # half a minute to learn
    assert auto >= 0.97 * best, (mode, chooser.describe())


def test_drafts_that_are_never_kept_are_no_longer_made() -> None:
    auto, chooser = rate(constant(4, 20), always(0.0), 4)
    plain, _ = rate(constant(4, 20), always(0.0), 4, lanes=[1], drafts=[0])
    assert chooser.describe().draft_tokens == 0 or "trial" in chooser.describe().reason
    assert auto >= 0.98 * plain


def test_two_lanes_where_drafting_and_verification_are_balanced() -> None:
    """Constant times: at equal requests two half lanes cost twice as many verifications, unless both would wait."""
    _, chooser = rate(linear(6, 6, 0.5), always(0.85), 16)
    assert chooser._mode.lanes >= 2
    assert chooser._mode.draft_tokens >= 2


def test_one_lane_where_overlapping_makes_both_slower() -> None:
    """Drafter and verifier on the same cores: the model alone would take two lanes."""
    devices = Devices(lambda _, p, *__: p * 6 * MS, lambda _, t: (6 + 0.5 * t) * MS, 0.5 * MS, shared=1.0)
    auto, chooser = rate(devices, always(0.85), 16, warm=6000)
    alone, _ = rate(devices, always(0.85), 16, lanes=[1], drafts=[chooser._mode.draft_tokens], warm=6000)
    both, _ = rate(devices, always(0.85), 16, lanes=[2], drafts=[chooser._mode.draft_tokens], warm=6000)
    assert auto >= 0.97 * max(alone, both)


def test_plain_decoding_finds_out_when_drafts_become_good() -> None:
    turn = 60.0

    async def main() -> tuple[Mode, float, Mode, float]:
        chooser = Chooser(ALL_LANES, ALL_DRAFTS)
        async with ClosedLoop(constant(3, 25), lambda now: 0.02 if now < turn else 0.85, chooser, lanes=4) as loop:
            loop.load(4)
            while (now := (await loop.until(loop.tokens + 1))[1]) < turn:
                pass
            before, lost = chooser._mode, chooser.describe().trial_seconds
            while chooser._mode.draft_tokens < 3:
                now = (await loop.until(loop.tokens + 1))[1]
                assert now < 2 * turn
            return before, lost, chooser._mode, now - turn

    before, lost, after, took = virtual_time.run(main())
    assert before.draft_tokens == 0
    assert lost < 0.03 * turn  # what looking cost so far, the allowance of the beginning among it
    assert after.draft_tokens >= 3
    assert took < 45.0


def test_looks_at_drafts_become_rarer_while_they_find_nothing() -> None:
    """V rises with every token beyond six, as on a few cores: drafts do not pay for eight requests."""
    devices = Devices(
        lambda _, passes, drafts, fed: (1.5 + 0.5 * passes + 0.3 * drafts + 0.15 * fed) * MS,
        lambda _, tokens: (max(15.0, 3.0 * tokens) + 0.5) * MS,
        3 * MS,
        shared=0.9,
    )

    async def main() -> list[int]:
        chooser = Chooser(ALL_LANES, ALL_DRAFTS)
        trials = []
        async with ClosedLoop(devices, always(0.5), chooser, lanes=max(ALL_LANES)) as loop:
            loop.load(8)
            for tokens in (6000, 12_000, 18_000):
                await loop.until(tokens)
                trials.append(chooser.describe().trials)
        assert chooser.describe().draft_tokens == 0
        return trials

    first, second, third = virtual_time.run(main())
    assert third - second < 10
    assert third - second <= second - first < first


def test_a_change_of_load_is_answered_at_once() -> None:
    """Verification that grows with every token: many drafts for one request, none for many."""

    async def main() -> tuple[Mode, Mode, Mode]:
        chooser = Chooser(ALL_LANES, ALL_DRAFTS)
        async with ClosedLoop(linear(1, 10, 1.0), always(0.8), chooser, lanes=4) as loop:
            modes = []
            for requests in (1, 48, 1):
                loop.load(requests)
                await loop.until(loop.tokens + 4000)
                modes.append(chooser._mode)
            return modes[0], modes[1], modes[2]

    alone, crowd, again = virtual_time.run(main())
    assert alone.draft_tokens >= 3
    assert crowd.draft_tokens <= 1
    assert again.draft_tokens >= 3


def test_modes_are_weighed_only_while_the_services_are_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never between two rounds, where both wait: not for a load that moves, nor for what a trial has shown."""
    chooser = Chooser(ALL_LANES, ALL_DRAFTS)
    between, weighed = [False], []

    def watch(name: str) -> None:
        call = getattr(chooser, name)

        def watched(*args: object, **kinds: object) -> object:
            between[0] = True
            try:
                return call(*args, **kinds)
            finally:
                between[0] = False

        monkeypatch.setattr(chooser, name, watched)

    scores = chooser._scores

    def noted() -> Scores:
        weighed.append(between[0])
        return scores()

    monkeypatch.setattr(chooser, "_scores", noted)
    for name in ("begin", "end", "drafts", "judged"):
        watch(name)

    async def main() -> None:
        async with ClosedLoop(linear(1, 10, 1.0), always(0.8), chooser, lanes=4) as loop:
            for requests in (1, 48, 1):
                loop.load(requests)
                await loop.until(loop.tokens + 2000)

    virtual_time.run(main())
    assert len(weighed) > 20
    assert chooser.describe().trials > 0
    assert not any(weighed)


def test_plain_decoding_that_was_first_seen_at_a_bad_moment_is_seen_again() -> None:
    """Something else takes the cores in just those rounds."""
    usual = linear(1.0, 4.0, 1.5)
    rounds = 0

    def verify(items: int, tokens: int) -> float:
        nonlocal rounds
        rounds += tokens == items
        return usual.verify(items, tokens) * (1.3 if tokens == items and rounds < 16 else 1.0)

    devices = Devices(usual.draft, verify, usual.round_trip)
    achieved, chooser = rate(devices, always(0.5), 8, warm=3000, tokens=4000)
    assert rounds > 100
    assert achieved >= 0.95 * rate(usual, always(0.5), 8, lanes=[1], drafts=[0])[0]
    assert chooser.mode.draft_tokens == 0 or chooser.describe().reason.startswith("trial")


@pytest.mark.parametrize(("token", "taken"), [(0.0, True), (1.0, False)])
def test_drafts_are_not_taken_up_for_less_than_catching_up_costs(token: float, taken: bool) -> None:
    """For 16 requests none are worth it, for two they are, whose answers are long by then."""
    devices = Devices(
        lambda _, passes, drafts, fed: (passes * 1.0 + max(fed - 2 * drafts, 0) * token) * MS,
        lambda _, tokens: (4.0 + max(tokens - 4, 0) * 0.3) * MS,
        0.5 * MS,
    )

    async def main() -> tuple[Mode, Mode]:
        chooser = Chooser([1], [0, 1])
        async with ClosedLoop(
            devices,
            always(0.55),
            chooser,
            lanes=1,
            prompt=lambda _: 20,
            length=lambda number: 4000 if number <= 2 else 1200,
        ) as loop:
            loop.load(16)
            await loop.until(16 * 1000)
            before = chooser._mode
            loop.load(2)
            while len(loop.admission.requests) > 2:
                await loop.until(loop.tokens + 1)
            await loop.until(loop.tokens + 30)
            return before, chooser._mode

    before, after = virtual_time.run(main())
    assert before.draft_tokens == 0
    assert (after.draft_tokens > 0) == taken


def test_a_device_that_becomes_slower_is_followed() -> None:
    speed = {"draft": 2 * MS}
    devices = Devices(lambda _, passes, *__: passes * speed["draft"], lambda *_: 20 * MS, 0.5 * MS)

    async def main() -> tuple[int, int]:
        chooser = Chooser([1], ALL_DRAFTS)
        async with ClosedLoop(devices, always(0.75), chooser, lanes=1) as loop:
            loop.load(4)
            await loop.until(6000)
            fast = chooser._mode.draft_tokens
            speed["draft"] = 30 * MS
            await loop.until(12000)
            return fast, chooser._mode.draft_tokens

    fast, slow = virtual_time.run(main())
    assert fast >= 3
    assert slow <= 1


def test_a_drafter_that_goes_and_comes_back() -> None:
    async def main() -> None:
        chooser = Chooser(ALL_LANES, ALL_DRAFTS)
        async with ClosedLoop(constant(2, 20), always(0.8), chooser, lanes=4) as loop:
            loop.drafter.ready = False
            loop.load(4)
            await loop.until(500)
            assert loop.drafter.steps == 0
            assert chooser.describe().draft_tokens == 0
            loop.drafter.ready = True
            await loop.until(3000)
            assert chooser._mode.draft_tokens >= 2
            steps = loop.drafter.steps
            loop.drafter.ready = False
            await loop.until(3300)
            assert chooser.describe().draft_tokens == 0
            assert loop.drafter.steps <= steps + 4
            loop.drafter.ready = True
            await loop.until(3600)
            assert chooser.describe().draft_tokens >= 2

    virtual_time.run(main())


def test_a_fixed_choice_is_left_alone() -> None:
    _, chooser = rate(constant(30, 10), always(0.1), 4, lanes=[2], drafts=[3])
    choice = chooser.describe()
    assert (choice.lanes, choice.draft_tokens, choice.reason) == (2, 3, "fixed")
    assert (choice.auto_lanes, choice.auto_draft_tokens, choice.trials, choice.changes) == (False, False, 0, 0)


@pytest.mark.parametrize(("lanes", "drafts"), [([2], ALL_DRAFTS), (ALL_LANES, [3]), (ALL_LANES, [0])])
def test_either_may_be_fixed(lanes: Sequence[int], drafts: Sequence[int]) -> None:
    _, chooser = rate(constant(6, 20), always(0.8), 8, lanes=lanes, drafts=drafts)
    assert chooser._mode.lanes in lanes
    assert chooser._mode.draft_tokens in drafts
    choice = chooser.describe()
    assert (choice.auto_lanes, choice.auto_draft_tokens) == (len(lanes) > 1, len(drafts) > 1)


def test_trials_cost_little_and_changes_are_told() -> None:
    told: list[ChoiceInfo] = []

    async def main() -> float:
        chooser = Chooser(ALL_LANES, ALL_DRAFTS, told.append)
        async with ClosedLoop(constant(5, 25), always(0.7), chooser, lanes=4) as loop:
            loop.load(8)
            _, seconds = await loop.until(40_000)
        assert chooser.describe().changes == len(told)
        return chooser.describe().trial_seconds / seconds

    assert virtual_time.run(main()) < 0.02
    assert 0 < len(told) < 30
    last = told[-1]
    assert last.verify_seconds == pytest.approx(25 * MS, rel=0.1)
    assert last.reason
    assert last.acceptance[0] == pytest.approx(0.7, abs=0.1)
    if last.draft_tokens:
        assert last.draft_seconds == pytest.approx(5 * MS * last.draft_tokens, rel=0.15)


def test_a_request_that_keeps_no_drafts_gets_none_where_they_cost() -> None:
    """One text in four is not for this drafter: where verification grows with tokens its drafts are a waste."""
    asked: dict[int, int] = {}

    async def main() -> None:
        chooser = Chooser([1], [4, 5])  # always drafting
        async with ClosedLoop(linear(1, 5, 1.0), always(0.9), chooser, lanes=1) as loop:
            verdicts = loop.verifier.verify

            async def fussy(lane, generation, items):  # type: ignore[no-untyped-def]
                reply = await verdicts(lane, generation, items)
                kept = []
                for item, verdict in zip(items, reply.verdicts, strict=True):
                    asked[item.sequence_id] = asked.get(item.sequence_id, 0) + (
                        len(item.proposal.token_ids) if item.proposal else 0
                    )
                    bad = item.sequence_id % 4 == 0 and verdict.next_token_id is not None
                    kept.append(
                        type(verdict)(item.sequence_id, 0, 50, cached_len=verdict.cached_len) if bad else verdict
                    )
                return type(reply)(1, tuple(kept), reply.timing, reply.state)

            loop.verifier.verify = fussy  # type: ignore[method-assign]
            loop.load(8)
            await loop.until(4000)

    virtual_time.run(main())
    done = [number for number in asked if number <= 12]
    good = [asked[number] for number in done if number % 4]
    bad = [asked[number] for number in done if number % 4 == 0]
    assert sum(bad) / len(bad) < 0.5 * sum(good) / len(good)


def drafts_asked(chooser: Chooser, kept_for: float, tokens: int, first: int) -> list[int]:
    """K of every draft item, one request at a time: all are kept for some seconds, then none, and each costs much
    to verify. The first request has `first` tokens."""
    asked: list[int] = []

    async def main() -> None:
        async with ClosedLoop(
            linear(1, 5, 12.0),
            lambda now: float(now < kept_for),
            chooser,
            lanes=2,
            length=lambda number: first if number == 1 else 200,
        ) as loop:
            drafter = loop.drafter.draft

            async def listening(lane, generation, items):  # type: ignore[no-untyped-def]
                asked.extend(item.max_draft_tokens for item in items)
                return await drafter(lane, generation, items)

            loop.drafter.draft = listening  # type: ignore[method-assign]
            loop.load(1)
            await loop.until(tokens)

    virtual_time.run(main())
    return asked


def test_a_number_of_drafts_is_that_number_though_lanes_are_chosen() -> None:
    asked = drafts_asked(Chooser([1, 2], [3]), 2.0, 500, first=100)
    assert len(asked) > 300
    assert sum(number < 3 for number in asked) < 0.05 * len(asked)  # at the ends of requests


def test_a_request_is_not_judged_by_the_luck_of_the_first() -> None:
    """What is usual is not known after a few proposals."""
    chooser = Chooser([1], [3, 4])
    asked = drafts_asked(chooser, 0.4, 30, first=16)
    assert 20 < chooser.acceptance.evidence < 32
    assert len(asked) > 28  # every round asked for some


@pytest.mark.parametrize("requests", [1, 4])
def test_drafts_of_little_chance_are_left_out_where_they_cost(requests: int) -> None:
    """A CPU, where every token verified costs; the drafter knows the chance of each draft."""
    telling = linear(1, 8, 2.0)
    knows = Devices(telling.draft, telling.verify, telling.round_trip, spread=True)
    warm = 3000 * requests
    auto, chooser = rate(knows, always(0.5), requests, warm=warm, tokens=warm)
    every = {
        drafts: rate(knows, always(0.5), requests, lanes=[1], drafts=[drafts], warm=500, tokens=warm)[0]
        for drafts in (0, 1, 2, 4)
    }
    assert chooser.least_chance > 0.0
    assert auto >= 1.05 * max(every.values()), (every, chooser.describe())


def test_drafts_that_cost_nothing_are_not_left_out() -> None:
    telling = constant(0.2, 40)
    knows = Devices(telling.draft, telling.verify, telling.round_trip, spread=True)
    _, chooser = rate(knows, always(0.5), 4, warm=4000)
    assert chooser.least_chance <= 0.1


def test_a_number_of_drafts_that_was_asked_for_is_drafted() -> None:
    telling = linear(1, 8, 2.0)
    knows = Devices(telling.draft, telling.verify, telling.round_trip, spread=True)
    _, chooser = rate(knows, always(0.5), 4, lanes=[1, 2], drafts=[4])
    assert chooser.least_chance == 0.0
