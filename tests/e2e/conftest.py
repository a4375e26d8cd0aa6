"""Real processes over one tiny pair, shared by the end-to-end tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from minedraft.cli.stack import Stack, StackOptions
from minedraft.config import environment_for_services
from tests.models import tiny_llama

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return tiny_llama(folder / "target"), tiny_llama(folder / "draft", noise=0.1)


@pytest.fixture(scope="session")
def stack(pair: tuple[Path, Path]) -> Iterator[Stack]:
    """A verifier, a drafter and a coordinator. Shared: tests leave it as they found it."""
    with Stack(StackOptions(target=str(pair[0]), draft=str(pair[1]), threads_verifier=1, threads_drafter=1)) as running:
        yield running


def run(*command: str | Path, cwd: Path = REPOSITORY, seconds: float = 120) -> subprocess.CompletedProcess[str]:
    """A command to its end, with the test's interpreter first in the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=environment_for_services() | {"PATH": path, "TERM": "dumb", "COLUMNS": "160"},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
