"""python -m coordinator: serve generations."""

from __future__ import annotations

import sys

from coordinator.service import CoordinatorService
from minedraft import process
from minedraft.config import CoordinatorSettings


def build(settings: CoordinatorSettings) -> process.Service:
    return CoordinatorService(settings)


if __name__ == "__main__":
    sys.exit(process.main("coordinator", CoordinatorSettings, build))
