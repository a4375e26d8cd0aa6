"""The drafter's side: draw drafts, and say exactly which law they were drawn from.

A drafter truncates and rounds its law first and draws from what it will send, so the verifier's q is the real one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minedraft.sampling.accept import inverse_cdf, race
from minedraft.sampling.law import Row, adjusted_logits, argmax, target_law
from minedraft.sampling.uniforms import Role, exponentials, seeds_of, uniforms
from minedraft.types import AcceptanceRule, Dense, DraftLaw, PointMass, SequenceParams, TopM


class DraftLawKind(Enum):
    """The law that drafts of sampled sequences under rule REJECTION are drawn from."""

    POINT_MASS = "point_mass"
    """The likeliest token, for certain."""
    TOP_M = "top_m"
    """The M likeliest tokens, normalised; float32 weights."""
    DENSE = "dense"
    """Every token; float16 weights."""


@dataclass(frozen=True, slots=True)
class Draft:
    """One drawn token and the law that it was drawn from."""

    token_id: int
    ids: NDArray[np.int32] | None = None  # [M], under TOP_M
    weights: NDArray[np.float32] | None = None  # [M], under TOP_M
    dense: Tensor | None = None  # [V] float16 on the model's device, under DENSE


def draws_by_law(params: SequenceParams) -> bool:
    """Whether drafts of such a sequence are drawn from a law that the verifier must know."""
    return not params.sampling.greedy and params.rule is AcceptanceRule.REJECTION


def draw(
    logits: Tensor, rows: Sequence[Row], eos_token_ids: Sequence[int], kinds: Sequence[DraftLawKind], top_m: int
) -> list[Draft]:
    """One draft for each row, under the row's own sampling parameters. [B, V]

    Greedy rows take the argmax. Rule MATCH runs the target's race with the draft's law. Rule REJECTION draws by the
    row's kind.
    """
    logits = adjusted_logits(logits, rows, eos_token_ids)
    drafts = [Draft(token) for token in argmax(logits)]
    racing = [i for i, row in enumerate(rows) if not row.sampling.greedy and row.params.rule is AcceptanceRule.MATCH]
    drawing = [i for i, row in enumerate(rows) if draws_by_law(row.params) and kinds[i] is not DraftLawKind.POINT_MASS]
    if racing:
        for index, token in zip(racing, picks(logits[racing], [rows[i] for i in racing]), strict=True):
            drafts[index] = Draft(token)
    for kind in {kinds[i] for i in drawing}:
        alike = [i for i in drawing if kinds[i] is kind]
        q = target_law(logits[alike], [rows[i] for i in alike])
        drawn = _draw(q, [rows[i] for i in alike], kind, top_m)
        for index, draft in zip(alike, drawn, strict=True):
            drafts[index] = draft
    return drafts


def picks(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """The winner of each row's race, from adjusted logits. Drafter and target run it with the same clocks. [R, V]"""
    seeds, positions = clock_keys(rows, logits.device)
    clocks = exponentials(seeds, positions, logits.shape[1])
    return [int(token) for token in race(target_law(logits, rows), clocks).tolist()]


def clock_keys(rows: Sequence[Row], device: torch.device) -> tuple[Tensor, Tensor]:
    """(seeds, positions) of the rows, int64 [R] each."""
    seeds = seeds_of([row.params.seed for row in rows], device)
    return seeds, torch.tensor([row.position for row in rows], device=device)


def collect(drafts: Sequence[Draft]) -> DraftLaw:
    """The law of one sequence's drafts, in order. All must be of one kind."""
    ids = [draft.ids for draft in drafts if draft.ids is not None]
    weights = [draft.weights for draft in drafts if draft.weights is not None]
    dense = [draft.dense for draft in drafts if draft.dense is not None]
    if ids:
        return TopM(np.stack(ids), np.stack(weights))
    if dense:
        return Dense(torch.stack(dense).cpu().numpy())
    return PointMass()


def _draw(q: Tensor, rows: Sequence[Row], kind: DraftLawKind, top_m: int) -> list[Draft]:
    u = uniforms(*clock_keys(rows, q.device), Role.DRAFT)
    if kind is DraftLawKind.DENSE:
        rounded = q.half()
        tokens = inverse_cdf(rounded, u)
        return [Draft(int(token), dense=row) for token, row in zip(tokens.tolist(), rounded, strict=True)]
    top = q.topk(min(top_m, q.shape[1]), dim=1)
    weights = top.values.float()
    places = inverse_cdf(weights, u)
    tokens = top.indices.gather(1, places[:, None]).squeeze(1)
    ids, sent = top.indices.int().cpu().numpy(), weights.cpu().numpy()
    return [
        Draft(int(token), ids=row, weights=mass) for token, row, mass in zip(tokens.tolist(), ids, sent, strict=True)
    ]
