"""What a model service caches of a sequence, and how that is brought in line with the committed tokens. Torch-free."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from minedraft.kv.table import BlockTable
from minedraft.types import ItemStatus, SequenceParams


@dataclass(slots=True)
class Sequence:
    """One sequence of one lease. Mutable; only `minedraft.engine.runner` changes it."""

    sequence_id: int
    params: SequenceParams
    table: BlockTable
    token_ids: list[int] = field(default_factory=list)  # the tokens whose K and V are cached, drafts included
    feed: tuple[int, ...] = ()  # committed tokens that were not cached when the step began
    committed_len: int = 0  # committed tokens as of this step: cached ones and `feed`
    names: list[bytes] = field(default_factory=list)  # of its first blocks: full, and of committed tokens only

    @property
    def cached_len(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an item of a step cannot be served. The other items of the step go on."""

    status: ItemStatus  # GAP, NO_SPACE or REJECTED
    cached_len: int
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Reconciled:
    """The outcome of `reconcile`: keep this many cached tokens, drop the rest, then feed."""

    keep: int
    feed: tuple[int, ...]


def reconcile(cached: Seq[int], base_len: int, tail: Seq[int], least: int = 1) -> Reconciled | None:
    """Bring cached tokens in line with the committed ones, which are cached[:base_len] followed by `tail`.

    Keeps the longest cached prefix that agrees, but always leaves the last `least` committed tokens to feed: one where
    logits are wanted, since they come from feeding. None when fewer than `base_len` tokens are cached, a gap that only
    the caller can fill. `tail` has at least one token.
    """
    if len(cached) < base_len:
        return None
    agreeing = _common_prefix(cached[base_len : base_len + len(tail)], tail)
    kept = min(agreeing, len(tail) - least)
    return Reconciled(base_len + kept, tuple(tail[kept:]))


def _common_prefix(first: Seq[int], second: Seq[int]) -> int:
    """Length of the longest common prefix."""
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
