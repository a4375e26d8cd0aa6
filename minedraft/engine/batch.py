"""From the feeds of a step to the ragged batch of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass

from minedraft.engine.sequence import Sequence
from minedraft.errors import InternalError
from minedraft.model.ragged import RaggedBatch, Segment, assemble


@dataclass(frozen=True, slots=True)
class Feed:
    """Tokens to feed to one sequence, after its cached ones."""

    sequence: Sequence
    token_ids: Seq[int]  # at least one
    num_logits: int  # logits are wanted for the last this many of them; 0 only fills the cache


def build_batch(feeds: Seq[Feed]) -> RaggedBatch:
    """One ragged batch of all feeds, in order. Raises InternalError for what `Engine.forward` forbids."""
    if len({id(feed.sequence) for feed in feeds}) != len(feeds):
        raise InternalError("a sequence was fed twice in one forward pass")
    return assemble([_segment(feed) for feed in feeds])


def _segment(feed: Feed) -> Segment:
    sequence = feed.sequence
    start = len(sequence.token_ids)
    stop = start + len(feed.token_ids)
    if stop > sequence.table.capacity:
        raise InternalError(f"sequence {sequence.sequence_id} was fed {stop} tokens and has room for fewer")
    if not 0 <= feed.num_logits <= stop - start or stop == start:
        raise InternalError(f"{feed.num_logits} rows of logits were asked for {stop - start} tokens")
    return Segment(feed.token_ids, start, sequence.table.slots(0, stop), feed.num_logits)
