"""Ways to draft."""

from __future__ import annotations

import uuid
from typing import Protocol

from drafter_service.proposers.ngram import NgramProposer
from minedraft.config import DrafterSettings
from minedraft.engine.stepper import Worker
from minedraft.errors import SetupError
from minedraft.types import DraftItem, Proposal

NGRAM = "ngram"


class Proposer(Worker[DraftItem, Proposal], Protocol):
    """What drafts."""

    @property
    def payload_device(self) -> str:
        """Where the tensors are that go over a channel; "" when there never are any."""

    @property
    def payload_bytes_per_draft(self) -> int:
        """What each draft sends over a channel; 0 when its law fits into the reply."""

    @property
    def estimates_chances(self) -> bool:
        """Whether `DraftItem.least_chance` is heeded."""


def make_proposer(settings: DrafterSettings) -> Proposer:
    """The proposer that the settings ask for. Raises SetupError. Only a model brings torch in."""
    if settings.model == NGRAM and not settings.simulate:
        if settings.ngram_min > settings.ngram_max:
            raise SetupError(f"--ngram-min {settings.ngram_min} is above --ngram-max {settings.ngram_max}")
        return NgramProposer(uuid.uuid4().hex, settings.ngram_min, settings.ngram_max)
    from drafter_service.proposers.model import ModelProposer

    return ModelProposer.load(settings)
