"""Which slots of a ring are free, being written, or published. Pure; the writer's side alone keeps it."""

from __future__ import annotations

from enum import Enum

from minedraft.errors import InternalError


class SlotState(Enum):
    """Where a slot is in its life: FREE -> ACQUIRED -> PUBLISHED -> FREE."""

    FREE = "free"
    ACQUIRED = "acquired"
    PUBLISHED = "published"


class SlotTable:
    """The states of `count` slots, and the numbers of the payloads that went through them."""

    def __init__(self, count: int) -> None:
        self._states = [SlotState.FREE] * count
        self._free = list(range(count - 1, -1, -1))  # the slot freed last is taken first: its pages are warm
        self._sequence = 0

    @property
    def free(self) -> int:
        return len(self._free)

    def state(self, slot: int) -> SlotState:
        """Raises InternalError for a slot that does not exist."""
        if not 0 <= slot < len(self._states):
            raise InternalError(f"slot {slot} of {len(self._states)}")
        return self._states[slot]

    def acquire(self) -> int | None:
        """A free slot, now ACQUIRED; None when there is none."""
        if not self._free:
            return None
        slot = self._free.pop()
        self._states[slot] = SlotState.ACQUIRED
        return slot

    def publish(self, slot: int) -> int:
        """ACQUIRED to PUBLISHED; the number of the payload, counted from 1. Raises InternalError in any other state."""
        if self.state(slot) is not SlotState.ACQUIRED:
            raise InternalError(f"slot {slot} is {self._states[slot].value}, it must be acquired to be published")
        self._states[slot] = SlotState.PUBLISHED
        self._sequence += 1
        return self._sequence

    def reclaim(self, slot: int) -> None:
        """Back to FREE. Raises InternalError when it is free already."""
        if self.state(slot) is SlotState.FREE:
            raise InternalError(f"slot {slot} is free already")
        self._states[slot] = SlotState.FREE
        self._free.append(slot)
