"""python -m drafter_service: serve proposals."""

from __future__ import annotations

import sys

from drafter_service.proposers import make_proposer
from drafter_service.service import FULL_NAME, DrafterServicer
from minedraft import process
from minedraft.channel_service import open_desk
from minedraft.config import DrafterSettings
from minedraft.model_service import ModelService
from minedraft.telemetry.activity import Role


def build(settings: DrafterSettings) -> process.Service:
    return ModelService(
        settings,
        FULL_NAME,
        Role.DRAFTER,
        make_worker=lambda: make_proposer(settings),
        make_servicer=lambda stepper, proposer: DrafterServicer(
            stepper,
            open_desk(settings, proposer.payload_device),
            proposer.payload_bytes_per_draft,
            estimates_chances=proposer.estimates_chances,
        ),
    )


if __name__ == "__main__":
    sys.exit(process.main("drafter", DrafterSettings, build))
