"""One tiny pair served for the whole of this folder. Shared: tests leave it as they found it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.http.serving import Running, serving
from tests.models import tiny_llama


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    return tiny_llama(folder / "target"), tiny_llama(folder / "draft", noise=0.1)


@pytest.fixture(scope="session")
def here(pair: tuple[Path, Path]) -> Iterator[Running]:
    with serving(*pair, model={"num_blocks": 1024}) as running:
        yield running
