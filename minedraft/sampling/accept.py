"""The two acceptance rules, for a batch of proposals. Both emit exactly the target's law.

`reject`: exact rejection sampling (Leviathan et al. 2023, arXiv 2211.17192, theorem 1; Chen et al. 2023, arXiv
2302.01318), provided that each draft was drawn from the very law that is given here.
`match`: the target picks by itself, a draft is kept when it is that pick (Daliri, Musco & Suresh 2024, arXiv
2408.07978); whatever was drafted, the output is the picks.

Pure: no I/O, no random state, no device of its own. B sequences, up to K drafts each, V tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

BLOCK: Final = 512
"""Tokens whose mass is summed at once when a law is large: the cumulated sum is the slow part of drawing."""

DraftLawAt = Callable[[Tensor, Tensor], Tensor]
"""(sequence [n], position [n]) -> q [n, V] float64: the draft law at those places. Asked only for rejected drafts."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What verification keeps of each proposal."""

    accepted_len: Tensor  # [B] int64, drafts kept, 0..K
    next_token: Tensor  # [B] int64, the recovered token after a rejection, the bonus token after none


def reject(
    p: Tensor,  # [B, K+1, V] target law at every draft position and after the last
    draft_ids: Tensor,  # [B, K] int64, padded with any valid id
    draft_len: Tensor,  # [B] int64, drafts proposed for each sequence
    q_at_draft: Tensor,  # [B, K] float64, q of each draft
    draft_law: DraftLawAt,
    u_accept: Tensor,  # [B, K] float64 in [0, 1), one for each position
    u_next: Tensor,  # [B, K+1] float64 in [0, 1), one for the token after each possible accepted length
) -> Accepted:
    """Keep the longest prefix of drafts with u * q[x] < p[x], and draw the one token after it."""
    sequence = torch.arange(len(draft_ids), device=p.device)
    position = torch.arange(draft_ids.shape[1], device=p.device)

    p_at_draft = p[:, :-1].gather(2, draft_ids[..., None]).squeeze(2)
    kept = (u_accept * q_at_draft < p_at_draft) & (position < draft_len[:, None])
    accepted_len = kept.long().cumprod(dim=1).sum(dim=1)

    law = p[sequence, accepted_len].double()  # right for a bonus token; a rejected draft leaves the residual
    rejected = (accepted_len < draft_len).nonzero().squeeze(1)
    if len(rejected):
        law[rejected] = residual(law[rejected], draft_law(rejected, accepted_len[rejected]))
    return Accepted(accepted_len, inverse_cdf(law, u_next[sequence, accepted_len]))


def match(picks: Sequence[int], draft_ids: Sequence[int]) -> tuple[int, int]:
    """(accepted length, next token): drafts are kept up to the first that is not the target's own pick, which follows.

    `picks` has one token for each draft and one more, each picked with the drafts before it as history.
    """
    for place, (pick, draft) in enumerate(zip(picks, draft_ids, strict=False)):
        if pick != draft:
            return place, pick
    return len(draft_ids), picks[len(draft_ids)]


def race(p: Tensor, clocks: Tensor) -> Tensor:
    """The token whose clock rings first when token x's runs p[x] times as fast. [n, V], [n, V] -> [n] int64

    With independent exponential clocks the winner's law is p. Laws that are alike mostly have the same winner.
    """
    return (clocks / p.double()).argmin(dim=1)


def residual(p: Tensor, q: Tensor) -> Tensor:
    """max(p - q, 0), not normalised. Where rounding leaves nothing (p and q all but equal), p itself. [n, V]"""
    rest = (p - q).clamp_(min=0)
    nothing = rest.sum(dim=1) == 0
    if bool(nothing.any()):
        rest[nothing] = p[nothing].to(rest.dtype)
    return rest


def inverse_cdf(law: Tensor, u: Tensor) -> Tensor:
    """The token at quantile u of a law that need not sum to 1. [n, V], [n] -> [n] int64

    Sums in float64: over 150,000 tokens float32 would lose the tail. Tokens of mass zero are never drawn.
    """
    vocab = law.shape[1]
    whole = vocab - vocab % BLOCK  # tokens in whole blocks; a short one may follow
    if whole < 4 * BLOCK:
        return _search(law.double(), u)[0]
    exact = law if law.dtype in {torch.float32, torch.float64} else law.float()  # sums of halves are slow
    sums = exact[:, :whole].view(len(law), -1, BLOCK).sum(dim=2, dtype=torch.float64)  # [n, blocks]
    if whole < vocab:
        sums = torch.cat([sums, exact[:, whole:].sum(dim=1, keepdim=True, dtype=torch.float64)], dim=1)
    block, rest = _search(sums, u)
    places = (block[:, None] * BLOCK + torch.arange(BLOCK, device=law.device)).clamp(max=vocab - 1)  # [n, BLOCK]
    inside = exact.gather(1, places).double()
    inside[block[:, None] * BLOCK + torch.arange(BLOCK, device=law.device) >= vocab] = 0
    token, _ = _search(inside, rest / sums.gather(1, block[:, None]).squeeze(1))
    return block * BLOCK + token


def _search(masses: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """The entry at quantile u, and how much mass of it lies before that: [n, m] float64, [n] -> [n] int64, [n]"""
    cdf = masses.cumsum(dim=1)
    total = cdf[:, -1:].contiguous()
    wanted = u.double()[:, None] * total
    entry = torch.searchsorted(cdf, wanted, right=True)
    last = torch.searchsorted(cdf, total)  # the last entry with mass, should u * total round up to total
    entry = torch.minimum(entry, last)
    own = masses.gather(1, entry)
    return entry.squeeze(1), (wanted - (cdf.gather(1, entry) - own)).clamp(min=0).squeeze(1)
