"""The exact law of a function of random numbers, measured from outside.

Drafter and verifier draw by comparing uniform numbers with thresholds, so every outcome is an interval of each number.
The intervals' ends are found by bisection down to the last bit of a double, for many cases at once, through the real
`draw` and `judge`. Nothing of the rule's theory is used, so a biased rule shows its bias.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from minedraft.sampling import draft as draft_module
from minedraft.sampling import verdict as verdict_module
from minedraft.sampling.draft import Draft, DraftLawKind, collect, draw
from minedraft.sampling.draft_law import read_law
from minedraft.sampling.law import Row
from minedraft.sampling.uniforms import Role
from minedraft.sampling.verdict import Judged, judge
from minedraft.types import AcceptanceRule, SamplingParams, SequenceParams
from tests.unit.sampling import reference

VOCAB = 4
EOS = (3,)
PROMPT = (1, 2)
OUTPUT = (1,)
DRAFTS = 2
BISECTIONS = 54
ALMOST_ONE = 1 - 2.0**-53

Path = tuple[int, ...]
Numbers = NDArray[np.float64]


class World:
    """A target and a draft model over four tokens, random but fixed, and a pair of dice whose throws are chosen."""

    def __init__(self, sampling: SamplingParams, kind: DraftLawKind, top_m: int, patch: pytest.MonkeyPatch) -> None:
        self.sampling, self.kind, self.top_m = sampling, kind, top_m
        self._chosen: dict[tuple[int, int, Role], float] = {}
        for module in (draft_module, verdict_module):
            patch.setattr(module, "uniforms", self._uniforms)

    def joint_law(self) -> dict[Path, float]:
        """The law of the first two tokens that come out: a round of drafts, and another where it emits one token."""
        found: dict[Path, float] = defaultdict(float)
        proposals = self._proposals()
        for path, (mass, drafts) in proposals.items():
            for emitted, share in self._verdicts(path, drafts).items():
                if len(emitted) >= 2:
                    found[emitted[:2]] += mass * share
                    continue
                for (second, *_), rest in self._verdicts((), [], emitted).items():
                    found[*emitted, second] += mass * share * rest
        return dict(found)

    def target(self) -> dict[Path, float]:
        """What it should be."""
        law = self._reference(())
        return {
            (a, b): float(law[a] * second[b])
            for a in range(VOCAB)
            for second in [self._reference((a,))]
            for b in range(VOCAB)
        }

    def _reference(self, emitted: Path) -> Numbers:
        logits = self._logits("target", emitted)
        adjusted = reference.adjusted(logits, self.sampling, PROMPT, [*OUTPUT, *emitted], EOS)
        return reference.law(adjusted, self.sampling)

    def _proposals(self) -> dict[Path, tuple[float, list[Draft]]]:
        """Every path of drafts with its probability and what the drafter says of it."""
        paths: dict[Path, tuple[float, list[Draft]]] = {(): (1.0, [])}
        for _ in range(DRAFTS):
            longer: dict[Path, tuple[float, list[Draft]]] = {}
            for path, (mass, drafts) in paths.items():
                for token, (share, draft) in self._drafts(path).items():
                    longer[*path, token] = (mass * share, [*drafts, draft])
            paths = longer
        return paths

    def _drafts(self, path: Path) -> dict[int, tuple[float, Draft]]:
        """The tokens that `draw` draws after `path`, each with the measure of the numbers that give it."""
        said = self._draw(path, np.zeros(1))[0]
        order = list(range(VOCAB)) if said.ids is None else [int(token) for token in said.ids]

        def rank(numbers: Numbers) -> NDArray[np.int64]:
            return np.array([order.index(draft.token_id) for draft in self._draw(path, numbers)])

        masses = intervals(rank, len(order))
        middle = np.cumsum(masses) - masses / 2
        drawn = self._draw(path, middle)
        return {order[place]: (mass, drawn[place]) for place, mass in enumerate(masses) if mass > 0}

    def _draw(self, path: Path, numbers: Numbers) -> list[Draft]:
        rows = [Row(self._params(seed), (*PROMPT, *OUTPUT), path) for seed in range(len(numbers))]
        position = rows[0].position
        self._chosen = {(seed, position, Role.DRAFT): number for seed, number in enumerate(numbers.tolist())}
        logits = torch.from_numpy(np.tile(self._logits("draft", path), (len(rows), 1)))
        return draw(logits, rows, EOS, [self.kind] * len(rows), self.top_m)

    def _verdicts(self, path: Path, drafts: Sequence[Draft], before: Path = ()) -> dict[Path, float]:
        """What the verifier emits for one proposal after `before`, each with its probability."""
        length = len(path)

        def outcomes(accept: Numbers, following: Numbers) -> list[Path]:
            """[n, length], [n] -> what is emitted when the numbers are these."""
            judged = [
                Judged(self._params(seed), (*PROMPT, *OUTPUT, *before), path, read_law(collect(drafts)))
                for seed in range(len(following))
            ]
            position = len(PROMPT) + len(OUTPUT) + len(before)
            self._chosen = {
                (seed, position + place, Role.ACCEPT): float(accept[seed, place])
                for seed in range(len(following))
                for place in range(length)
            } | {
                (seed, position + place, Role.NEXT): float(following[seed])
                for seed in range(len(following))
                for place in range(length + 1)
            }
            rows = [self._logits("target", (*before, *path[:place])) for place in range(length + 1)]
            logits = torch.from_numpy(np.tile(np.array(rows), (len(judged), 1)))
            return [(*path[: verdict.accepted_len], verdict.next_token_id) for verdict in judge(logits, judged, EOS)]

        emitted: dict[Path, float] = defaultdict(float)
        reached = 1.0
        for place in range(length + 1):
            accepted = np.zeros(length)

            def kept(numbers: Numbers, place: int = place) -> NDArray[np.int64]:
                """0 where the draft at `place` is kept, after all before it were."""
                accept = np.zeros((len(numbers), length))
                accept[:, place] = numbers
                return np.array([int(len(out) <= place + 1) for out in outcomes(accept, np.zeros(len(numbers)))])

            here = float(intervals(kept, 2)[0]) if place < length else 0.0
            if here < 1:
                accepted[place:] = ALMOST_ONE

                def following(numbers: Numbers, accepted: Numbers = accepted) -> NDArray[np.int64]:
                    return np.array([out[-1] for out in outcomes(np.tile(accepted, (len(numbers), 1)), numbers)])

                for token, share in enumerate(intervals(following, VOCAB)):
                    emitted[*path[:place], token] += reached * (1 - here) * share
            reached *= here
        return emitted

    def _params(self, seed: int) -> SequenceParams:
        return SequenceParams(len(PROMPT), seed, AcceptanceRule.REJECTION, self.sampling)

    def _logits(self, model: str, emitted: Path) -> Numbers:
        return np.random.default_rng([len(model), len(emitted), *emitted]).normal(scale=1.5, size=VOCAB)

    def _uniforms(self, seeds: Tensor, positions: Tensor, role: Role) -> Tensor:
        keys = zip(seeds.tolist(), positions.tolist(), strict=True)
        return torch.tensor([self._chosen[seed, position, role] for seed, position in keys], dtype=torch.float64)


def intervals(rank: Callable[[Numbers], NDArray[np.int64]], count: int) -> Numbers:
    """The measure of the numbers in [0, 1) at which a step function that only rises has each of its values. [count]"""
    if count == 1:
        return np.ones(1)
    low, high = np.zeros(count - 1), np.ones(count - 1)
    at_start = rank(np.zeros(count - 1)) > np.arange(count - 1)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = rank(np.minimum(middle, ALMOST_ONE)) <= np.arange(count - 1)
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    ends = np.where(at_start, 0.0, high)
    return np.diff(np.concatenate([[0.0], ends, [1.0]]))


def total_variation(found: dict[Path, float], wanted: dict[Path, float]) -> float:
    return sum(abs(found.get(path, 0.0) - wanted.get(path, 0.0)) for path in {*found, *wanted}) / 2


def all_paths(length: int) -> list[Path]:
    return list(product(range(VOCAB), repeat=length))
