"""Ways to draft. A proposer is a `minedraft.engine.stepper.Worker` from DraftItem to Proposal."""

from __future__ import annotations

import uuid

from drafter_service.proposers.ngram import NgramProposer
from minedraft.config import DrafterSettings
from minedraft.engine.stepper import Worker
from minedraft.errors import SetupError
from minedraft.types import DraftItem, Proposal

NGRAM = "ngram"


def make_proposer(settings: DrafterSettings) -> Worker[DraftItem, Proposal]:
    """The proposer that the settings ask for. Raises SetupError. Only a model brings torch in."""
    if settings.model == NGRAM and not settings.simulate:
        if settings.ngram_min > settings.ngram_max:
            raise SetupError(f"--ngram-min {settings.ngram_min} is above --ngram-max {settings.ngram_max}")
        return NgramProposer(uuid.uuid4().hex, settings.ngram_min, settings.ngram_max)
    from drafter_service.proposers.model import ModelProposer

    return ModelProposer.load(settings)
