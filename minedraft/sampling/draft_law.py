"""The draft law q as the verifier reads it: normalised in float64, whatever it was sent as. K drafts, V tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from minedraft.errors import InternalError, InvalidRequest
from minedraft.types import Dense, DraftLaw, PayloadRef, PointMass, TopM


class Law(Protocol):
    """The law of one proposal's drafts."""

    def check(self, token_ids: Sequence[int], vocab_size: int) -> None:
        """Raise InvalidRequest, naming the field, for a law that no drafter of this vocabulary can have drawn from."""

    def mass_at(self, token_ids: Sequence[int]) -> list[float]:
        """q of each draft."""

    def row(self, place: int, token_id: int, vocab_size: int) -> Tensor:
        """q over the whole vocabulary where the draft at `place`, `token_id`, was drawn. float64 [V]"""


class CertainLaw:
    """Each draft had mass 1."""

    def check(self, token_ids: Sequence[int], vocab_size: int) -> None:
        """Nothing can be wrong."""

    def mass_at(self, token_ids: Sequence[int]) -> list[float]:
        return [1.0] * len(token_ids)

    def row(self, place: int, token_id: int, vocab_size: int) -> Tensor:
        q = torch.zeros(vocab_size, dtype=torch.float64)
        q[token_id] = 1.0
        return q


class TopMLaw:
    """Mass on M tokens a position."""

    def __init__(self, law: TopM) -> None:
        self._ids, self._weights = law.token_ids, law.weights
        self._totals = law.weights.sum(axis=1, dtype=np.float64)  # [K]

    def check(self, token_ids: Sequence[int], vocab_size: int) -> None:
        ids, weights = self._ids, self._weights
        if ids.shape != weights.shape or len(ids) != len(token_ids):
            shapes = f"shapes {ids.shape} and {weights.shape}"
            raise InvalidRequest("proposal.top_m", f"{shapes} for {len(token_ids)} drafts")
        if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
            raise InvalidRequest("proposal.top_m.token_ids", f"all must be in [0, {vocab_size})")
        if any(len(np.unique(row)) != len(row) for row in ids):
            raise InvalidRequest("proposal.top_m.token_ids", "a token appears twice in a row")
        if not (np.isfinite(weights).all() and (weights >= 0).all()):
            raise InvalidRequest("proposal.law", "weights must be finite and not negative")
        _check_mass(self, token_ids)

    def mass_at(self, token_ids: Sequence[int]) -> list[float]:
        tokens = np.asarray(token_ids, dtype=np.int64)[:, None]
        with np.errstate(invalid="ignore", divide="ignore"):  # without mass it is NaN, which `check` refuses
            own = np.where(self._ids == tokens, self._weights, 0.0).sum(axis=1, dtype=np.float64) / self._totals
        return [float(mass) for mass in own]

    def row(self, place: int, token_id: int, vocab_size: int) -> Tensor:
        q = np.zeros(vocab_size)
        q[self._ids[place]] = self._weights[place].astype(np.float64) / self._totals[place]
        return torch.from_numpy(q)


class DenseLaw:
    """Mass on any token. Reads `weights` in place, which may be a view of a channel's slot."""

    def __init__(self, weights: Tensor) -> None:  # [K, V] float16, bfloat16 or float32, on any device
        self._weights = weights
        # By way of float32, which holds all three exactly: torch sums float16 into float64 six times slower.
        self._totals = weights.float().sum(dim=1, dtype=torch.float64) if weights.dim() == 2 else None  # [K]

    def check(self, token_ids: Sequence[int], vocab_size: int) -> None:
        wanted = (len(token_ids), vocab_size)
        if self._totals is None or tuple(self._weights.shape) != wanted:
            raise InvalidRequest("proposal.dense", f"shape {tuple(self._weights.shape)}, {wanted} is wanted")
        if token_ids and not (bool(self._totals.isfinite().all()) and float(self._weights.min()) >= 0):
            raise InvalidRequest("proposal.law", "weights must be finite and not negative")
        _check_mass(self, token_ids)

    def mass_at(self, token_ids: Sequence[int]) -> list[float]:
        if self._totals is None:
            raise InternalError("the law was not checked")
        tokens = torch.tensor(token_ids, dtype=torch.int64, device=self._weights.device)
        own = self._weights.gather(1, tokens[:, None]).squeeze(1).double() / self._totals
        return [float(mass) for mass in own.tolist()]

    def row(self, place: int, token_id: int, vocab_size: int) -> Tensor:
        if self._totals is None:
            raise InternalError("the law was not checked")
        return self._weights[place].double() / self._totals[place]


def read_law(law: DraftLaw) -> Law:
    """The law of a proposal that came whole. Raises InternalError for a mere reference."""
    match law:
        case PointMass():
            return CertainLaw()
        case TopM():
            return TopMLaw(law)
        case Dense(weights):
            if isinstance(weights, PayloadRef):
                raise InternalError("the payload of a dense law was not fetched")
            return DenseLaw(torch.from_numpy(np.array(weights)))  # copied: the message's bytes are read-only


def _check_mass(law: Law, token_ids: Sequence[int]) -> None:
    if not all(mass > 0 for mass in law.mass_at(token_ids)):
        raise InvalidRequest("proposal.law", "a draft has no mass in its own law")
