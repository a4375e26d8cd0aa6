"""From raw logits to verdicts, for a batch in which greedy, seeded and sampled sequences stand side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minedraft.errors import InvalidRequest
from minedraft.sampling.accept import match, reject
from minedraft.sampling.draft import clock_keys, picks
from minedraft.sampling.law import Row, adjusted_logits, argmax, target_law
from minedraft.sampling.uniforms import Role, uniforms
from minedraft.types import AcceptanceRule, Dense, DraftLaw, PointMass, SequenceParams, TokenLogprobs, TopM


@dataclass(frozen=True, slots=True)
class Judged:
    """One sequence's proposal and what its laws depend on. It has one row of logits a draft, and one more."""

    params: SequenceParams
    token_ids: Sequence[int]  # committed tokens
    draft_ids: Sequence[int] = ()
    law: DraftLaw = field(default_factory=PointMass)

    def rows(self) -> list[Row]:
        return [Row(self.params, self.token_ids, self.draft_ids[:place]) for place in range(len(self.draft_ids) + 1)]

    @property
    def plain(self) -> bool:
        """Whether the argmax of the raw logits decides."""
        sampling = self.params.sampling
        return sampling.greedy and not sampling.changes_logits


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is kept of a proposal, and the token after it."""

    accepted_len: int
    next_token_id: int
    logprobs: tuple[TokenLogprobs, ...] = ()


def judge(logits: Tensor, judged: Sequence[Judged], eos_token_ids: Sequence[int]) -> list[Judgement]:
    """A judgement for each proposal. `logits` [R, V] has each proposal's rows in turn. Raises InternalError on NaN."""
    starts = np.cumsum([0, *(len(one.draft_ids) + 1 for one in judged)]).tolist()
    spans = [slice(start, stop) for start, stop in pairwise(starts)]
    outcomes: dict[int, tuple[int, int]] = {}
    if any(one.plain for one in judged):
        best = argmax(logits)
        outcomes |= {i: match(best[spans[i]], one.draft_ids) for i, one in enumerate(judged) if one.plain}
    rest = [i for i, one in enumerate(judged) if not one.plain]
    if rest:
        chosen = [logits[spans[i]] for i in rest]
        outcomes |= dict(
            zip(rest, _judge_laws(torch.cat(chosen), [judged[i] for i in rest], eos_token_ids), strict=True)
        )
    return [
        Judgement(*outcomes[i], logprobs=_logprobs(logits[spans[i]], one, *outcomes[i])) for i, one in enumerate(judged)
    ]


def check_law(token_ids: Sequence[int], law: DraftLaw, vocab_size: int) -> None:
    """Raise InvalidRequest, naming the field, for a proposal that no drafter of this vocabulary can have drawn."""
    count = len(token_ids)
    if any(not 0 <= token < vocab_size for token in token_ids):
        raise InvalidRequest("proposal.token_ids", f"all must be in [0, {vocab_size})")
    match law:
        case TopM(ids, weights):
            if ids.shape != weights.shape or len(ids) != count:
                raise InvalidRequest("proposal.top_m", f"shapes {ids.shape} and {weights.shape} for {count} drafts")
            if count and (ids.min() < 0 or ids.max() >= vocab_size):
                raise InvalidRequest("proposal.top_m.token_ids", f"all must be in [0, {vocab_size})")
            if any(len(np.unique(row)) != len(row) for row in ids):
                raise InvalidRequest("proposal.top_m.token_ids", "a token appears twice in a row")
        case Dense(weights):
            if weights.shape != (count, vocab_size):
                raise InvalidRequest("proposal.dense", f"shape {weights.shape}, ({count}, {vocab_size}) is wanted")
        case _:
            return
    if not (np.isfinite(weights).all() and (weights >= 0).all()):
        raise InvalidRequest("proposal.law", "weights must be finite and not negative")
    if not all(mass > 0 for mass in _mass_at(token_ids, law)):
        raise InvalidRequest("proposal.law", "a draft has no mass in its own law")


def _judge_laws(logits: Tensor, judged: Sequence[Judged], eos_token_ids: Sequence[int]) -> list[tuple[int, int]]:
    """(accepted length, next token) of proposals whose laws must be computed. [R, V]"""
    rows = [row for one in judged for row in one.rows()]
    logits = adjusted_logits(logits, rows, eos_token_ids)
    starts = np.cumsum([0, *(len(one.draft_ids) + 1 for one in judged)]).tolist()
    outcomes: dict[int, tuple[int, int]] = {}
    sampled: list[int] = []
    for index, one in enumerate(judged):
        span = slice(starts[index], starts[index + 1])
        if one.params.sampling.greedy:
            outcomes[index] = match(argmax(logits[span]), one.draft_ids)
        elif one.params.rule is AcceptanceRule.MATCH:
            outcomes[index] = match(picks(logits[span], rows[span]), one.draft_ids)
        else:
            sampled.append(index)
    if sampled:
        chosen = [row for index in sampled for row in range(starts[index], starts[index + 1])]
        p = target_law(logits[chosen], [rows[row] for row in chosen])
        outcomes |= dict(zip(sampled, _reject(p, [judged[index] for index in sampled]), strict=True))
    return [outcomes[index] for index in range(len(judged))]


def _reject(laws: Tensor, judged: Sequence[Judged]) -> list[tuple[int, int]]:
    """Rejection sampling of several proposals at once. `laws` [R, V] holds each proposal's rows in turn."""
    lens = [len(one.draft_ids) for one in judged]
    longest, vocab, device = max(lens), laws.shape[1], laws.device
    starts = np.cumsum([0, *(length + 1 for length in lens)])
    places = np.arange(longest + 1)
    index = starts[:-1, None] + np.minimum(
        places, np.array(lens)[:, None]
    )  # [B, K+1], the last row repeated as padding
    p = laws[torch.from_numpy(index).to(device)]  # [B, K+1, V]
    padded = [[*one.draft_ids, *[0] * (longest - length)] for one, length in zip(judged, lens, strict=True)]
    q_at_draft = [
        [*_mass_at(one.draft_ids, one.law), *[1.0] * (longest - length)]
        for one, length in zip(judged, lens, strict=True)
    ]

    def draft_law(sequence: Tensor, position: Tensor) -> Tensor:
        pairs = zip(sequence.tolist(), position.tolist(), strict=True)
        return torch.stack([_dense_row(judged[s], place, vocab) for s, place in pairs]).to(device)

    def numbers(role: Role, count: int) -> Tensor:
        rows = [Row(one.params, one.token_ids, range(place)) for one in judged for place in range(count)]
        return uniforms(*clock_keys(rows, device), role).view(len(judged), count)

    accepted = reject(
        p,
        torch.tensor(padded, dtype=torch.int64, device=device).view(len(judged), longest),
        torch.tensor(lens, device=device),
        torch.tensor(q_at_draft, dtype=torch.float64, device=device).view(len(judged), longest),
        draft_law,
        numbers(Role.ACCEPT, longest) if longest else torch.zeros(len(judged), 0, dtype=torch.float64, device=device),
        numbers(Role.NEXT, longest + 1),
    )
    return list(zip(accepted.accepted_len.tolist(), accepted.next_token.tolist(), strict=True))


def _mass_at(token_ids: Sequence[int], law: DraftLaw) -> list[float]:
    """q of each draft under its own law, normalised in float64."""
    match law:
        case TopM(ids, weights):
            tokens = np.asarray(token_ids, dtype=np.int64)[:, None]
            return [float(mass) for mass in np.where(ids == tokens, _normalised(weights), 0.0).sum(axis=1)]
        case Dense(weights):
            own = _normalised(weights)[np.arange(len(token_ids)), list(token_ids)]
            return [float(mass) for mass in own]
        case _:
            return [1.0] * len(token_ids)


def _dense_row(judged: Judged, place: int, vocab: int) -> Tensor:
    """q over the whole vocabulary at one draft. float64 [V]"""
    q = np.zeros(vocab)
    match judged.law:
        case TopM(ids, weights):
            q[ids[place]] = _normalised(weights[place : place + 1])[0]
        case Dense(weights):
            q[:] = _normalised(weights[place : place + 1])[0]
        case _:
            q[judged.draft_ids[place]] = 1.0
    return torch.from_numpy(q)


def _normalised(weights: NDArray[np.float32] | NDArray[np.float16]) -> NDArray[np.float64]:
    wide = weights.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):  # a row without mass becomes NaN, which check_law refuses
        out: NDArray[np.float64] = wide / wide.sum(axis=1, keepdims=True)
    return out


def _logprobs(logits: Tensor, judged: Judged, accepted_len: int, next_token_id: int) -> tuple[TokenLogprobs, ...]:
    """The emitted tokens' log-probabilities under the raw logits, when asked for. [K+1, V]"""
    wanted = judged.params.sampling.logprobs
    if wanted is None:
        return ()
    tokens = [*judged.draft_ids[:accepted_len], next_token_id]
    raw = logits[: len(tokens)]
    log_p = (raw if raw.dtype == torch.float64 else raw.float()).log_softmax(dim=1)
    top = log_p.topk(min(wanted, log_p.shape[1]), dim=1)
    own = log_p.gather(1, torch.tensor(tokens, device=log_p.device)[:, None]).squeeze(1).tolist()
    return tuple(
        TokenLogprobs(token, value, tuple(ids), tuple(values))
        for token, value, ids, values in zip(tokens, own, top.indices.tolist(), top.values.tolist(), strict=True)
    )
