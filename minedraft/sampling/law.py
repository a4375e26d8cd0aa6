"""From logits and parameters to the law that the next token is drawn from. R rows, V tokens.

The order is: logit bias, penalties, forbidden EOS; then temperature, min-p, top-k, top-p. Tokens that tie at a cut
are all kept, as in transformers' own warpers, so that the law does not depend on how a sort breaks ties.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from minedraft.errors import InternalError
from minedraft.types import SamplingParams, SequenceParams

NO_LAW: Final = "the model's logits are not numbers, or every token is forbidden"
FIRST_LOOK: Final = 1024  # likeliest tokens looked at for top-p before all are sorted


@dataclass(frozen=True, slots=True)
class Row:
    """One place where a token is to be drawn, and all that its law depends on beside the logits."""

    params: SequenceParams
    token_ids: Sequence[int]  # committed tokens
    draft_ids: Sequence[int] = ()  # drafts between them and this place

    @property
    def position(self) -> int:
        """Index of the token to be drawn in its sequence."""
        return len(self.token_ids) + len(self.draft_ids)

    @property
    def sampling(self) -> SamplingParams:
        return self.params.sampling


def adjusted_logits(logits: Tensor, rows: Sequence[Row], eos_token_ids: Sequence[int]) -> Tensor:
    """Logits after bias, penalties and forbidden EOS: [R, V], float32, or float64 for float64. Never mutates its input.

    Repetition penalty (Keskar et al. 2019, arXiv 1909.05858) counts prompt and output, the frequency and presence
    penalties count the output, as in vLLM. Below min_new_tokens, EOS and the stop token ids have no mass.
    """
    out = logits if logits.dtype == torch.float64 else logits.float()
    for index, row in enumerate(rows):
        if row.sampling.changes_logits:
            out = out.clone() if out is logits else out
            _adjust(out[index], row, eos_token_ids)
    return out


def argmax(logits: Tensor) -> list[int]:
    """The likeliest token of each row, the first of equals. [R, V]. Raises InternalError where there is none."""
    if logits.device.type == "cpu" and logits.dtype in {torch.float32, torch.float64}:
        rows = logits.numpy()  # numpy's is five times as fast for a few rows, and leaves torch's threads asleep
        best = rows.argmax(axis=1)
        tokens, values = best.tolist(), rows[np.arange(len(rows)), best].tolist()
    else:
        likeliest = logits.max(dim=1)
        tokens, values = likeliest.indices.tolist(), likeliest.values.tolist()
    if not all(value - value == 0 for value in values):  # NaN and infinities differ from themselves so
        raise InternalError(NO_LAW)
    return [int(token) for token in tokens]


def target_law(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """The law of each row from its adjusted logits: [R, V], rows sum to 1, one-hot where temperature is 0.

    Raises InternalError when logits are not numbers or no token is left.
    """
    sampling = [row.sampling for row in rows]
    temperatures = [s.temperature or 1.0 for s in sampling]
    x = logits if all(t == 1.0 for t in temperatures) else logits / _column(temperatures, logits)
    if any(s.min_p > 0 for s in sampling):
        floor = x.amax(dim=1, keepdim=True) + _column([s.min_p for s in sampling], logits).log()
        x = x.masked_fill(x < floor, -torch.inf)
    if any(s.top_k > 0 for s in sampling):
        x = _top_k(x, [s.top_k for s in sampling])
    p = x.softmax(dim=1)
    if bool(p[:, 0].isnan().any()):  # one logit that is no number, or no token with mass, spoils its whole row
        raise InternalError(NO_LAW)
    if any(s.top_p < 1 for s in sampling):
        p = _top_p(p, _column([s.top_p for s in sampling], logits).double())
    greedy = [index for index, s in enumerate(sampling) if s.greedy]
    if greedy:
        best = torch.tensor(argmax(logits[greedy]), device=logits.device)
        p[greedy] = 0
        p[torch.tensor(greedy, device=logits.device), best] = 1
    return p


def _adjust(logits: Tensor, row: Row, eos_token_ids: Sequence[int]) -> None:
    """Change one row in place. [V]"""
    sampling = row.sampling
    if sampling.logit_bias:
        tokens = torch.tensor(list(sampling.logit_bias), device=logits.device)
        logits[tokens] += torch.tensor(list(sampling.logit_bias.values()), dtype=logits.dtype, device=logits.device)
    if sampling.repetition_penalty != 1.0:
        seen = _counts([*row.token_ids, *row.draft_ids], logits) > 0
        punished = torch.where(logits > 0, logits / sampling.repetition_penalty, logits * sampling.repetition_penalty)
        logits.copy_(torch.where(seen, punished, logits))
    if sampling.frequency_penalty != 0.0 or sampling.presence_penalty != 0.0:
        counts = _counts([*row.token_ids[row.params.prompt_len :], *row.draft_ids], logits)
        logits -= sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0).to(counts.dtype)
    if row.position < row.params.prompt_len + sampling.min_new_tokens:
        logits[list({*eos_token_ids, *sampling.stop_token_ids})] = -torch.inf


def _counts(token_ids: Sequence[int], like: Tensor) -> Tensor:
    """How often each token occurs. [V]"""
    tokens = torch.tensor(token_ids, dtype=torch.int64, device=like.device)
    return torch.bincount(tokens, minlength=len(like)).to(like.dtype)


def _top_k(x: Tensor, ks: Sequence[int]) -> Tensor:
    vocab = x.shape[1]
    ks = [min(k, vocab) or vocab for k in ks]
    limited = [index for index, k in enumerate(ks) if k < vocab]
    if not limited:
        return x
    largest = x.topk(max(ks[index] for index in limited), dim=1).values
    floor = x.new_full((len(ks), 1), -torch.inf)
    for index in limited:
        floor[index] = largest[index, ks[index] - 1]
    return x.masked_fill(x < floor, -torch.inf)


def _top_p(p: Tensor, wanted: Tensor) -> Tensor:
    """Keep the likeliest tokens up to the first whose cumulated mass reaches `wanted` [R, 1]; normalise again."""
    likeliest = p.topk(min(FIRST_LOOK, p.shape[1]), dim=1).values
    if p.shape[1] > FIRST_LOOK and bool(((likeliest.double().sum(dim=1, keepdim=True) < wanted) & (wanted < 1)).any()):
        likeliest = p.sort(dim=1, descending=True).values
    before = likeliest.double().cumsum(dim=1) - likeliest.double()
    last = ((before < wanted).sum(dim=1, keepdim=True) - 1).clamp(min=0)
    floor = torch.where(wanted < 1, likeliest.gather(1, last), 0)
    kept = p.masked_fill(p < floor, 0)
    return kept / kept.sum(dim=1, keepdim=True)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)[:, None]
