"""python -m verifier_service: serve the target model."""

from __future__ import annotations

import sys

from minedraft import process
from minedraft.channel_service import open_desk
from minedraft.config import VerifierSettings
from minedraft.model_service import ModelService
from minedraft.telemetry.activity import Role
from verifier_service.service import FULL_NAME, VerifierServicer
from verifier_service.verifier import Verifier


def build(settings: VerifierSettings) -> process.Service:
    return ModelService(
        settings,
        FULL_NAME,
        Role.VERIFIER,
        make_worker=lambda: Verifier.load(settings),
        make_servicer=lambda stepper, worker: VerifierServicer(
            stepper, open_desk(settings, worker.info.device), worker.tokenizer
        ),
        close_worker=lambda worker: worker.close(),
    )


if __name__ == "__main__":
    sys.exit(process.main("verifier", VerifierSettings, build))
