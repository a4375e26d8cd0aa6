"""From raw logits to verdicts, for a batch in which greedy, seeded and sampled sequences stand side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from minedraft.errors import InvalidRequest
from minedraft.sampling.accept import match, reject
from minedraft.sampling.draft import clock_keys, picks
from minedraft.sampling.draft_law import CertainLaw, Law
from minedraft.sampling.law import Row, adjusted_logits, argmax, target_law
from minedraft.sampling.uniforms import Role, uniforms
from minedraft.types import AcceptanceRule, SequenceParams, TokenLogprobs


@dataclass(frozen=True, slots=True)
class Judged:
    """One sequence's proposal and what its laws depend on. It has one row of logits a draft, and one more."""

    params: SequenceParams
    token_ids: Sequence[int]  # committed tokens
    draft_ids: Sequence[int] = ()
    law: Law = field(default_factory=CertainLaw)

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
        chosen = logits if len(rest) == len(judged) else torch.cat([logits[spans[i]] for i in rest])
        outcomes |= dict(zip(rest, _judge_laws(chosen, [judged[i] for i in rest], eos_token_ids), strict=True))
    return [
        Judgement(*outcomes[i], logprobs=_logprobs(logits[spans[i]], one, *outcomes[i])) for i, one in enumerate(judged)
    ]


def check_proposal(token_ids: Sequence[int], law: Law, vocab_size: int) -> None:
    """Raise InvalidRequest, naming the field, for a proposal that no drafter of this vocabulary can have drawn."""
    if any(not 0 <= token < vocab_size for token in token_ids):
        raise InvalidRequest("proposal.token_ids", f"all must be in [0, {vocab_size})")
    law.check(token_ids, vocab_size)


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
        p = target_law(logits if len(chosen) == len(rows) else logits[chosen], [rows[row] for row in chosen])
        outcomes |= dict(zip(sampled, _reject(p, [judged[index] for index in sampled]), strict=True))
    return [outcomes[index] for index in range(len(judged))]


def _reject(laws: Tensor, judged: Sequence[Judged]) -> list[tuple[int, int]]:
    """Rejection sampling of several proposals at once. `laws` [R, V] holds each proposal's rows in turn."""
    lens = [len(one.draft_ids) for one in judged]
    longest, vocab, device = max(lens), laws.shape[1], laws.device
    if all(length == longest for length in lens):
        p = laws.view(len(judged), longest + 1, vocab)
    else:
        starts = np.cumsum([0, *(length + 1 for length in lens)])
        places = np.minimum(np.arange(longest + 1), np.array(lens)[:, None])  # the last row repeated as padding
        p = laws[torch.from_numpy(starts[:-1, None] + places).to(device)]  # [B, K+1, V]
    padded = [[*one.draft_ids, *[0] * (longest - length)] for one, length in zip(judged, lens, strict=True)]
    q_at_draft = [
        [*one.law.mass_at(one.draft_ids), *[1.0] * (longest - length)] for one, length in zip(judged, lens, strict=True)
    ]

    def draft_law(sequence: Tensor, position: Tensor) -> Tensor:
        pairs = zip(sequence.tolist(), position.tolist(), strict=True)
        asked = [(judged[index], place) for index, place in pairs]
        return torch.stack([one.law.row(place, one.draft_ids[place], vocab).to(device) for one, place in asked])

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
