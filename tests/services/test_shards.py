"""Every architecture that may be split over ranks, split over two: real processes, gloo."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from minedraft.model import process_group
from minedraft.model.architectures import SHARDED
from tests.unit.engine.test_architectures import stock

RANKS = 2
# KV heads of a rank, where they are not half of 2: gpt_neox has 4, the plans of the others leave attention whole.
KV_HEADS = {"gpt_neox": 2, "olmo2": 2, "phi3": 2}


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("architectures")
    for architecture in sorted(SHARDED):
        stock(architecture).save_pretrained(folder / architecture)
    store = process_group.open_store(RANKS)
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.services.shard_ranks", str(rank), str(RANKS), str(store.port), str(folder)],
            cwd=Path(__file__).parents[2],
            stdout=subprocess.PIPE,
        )
        for rank in range(RANKS)
    ]
    said, _ = processes[0].communicate(timeout=300)
    for process in processes[1:]:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0] * RANKS
    return {line["model"]: line for line in map(json.loads, said.splitlines())}


@pytest.mark.parametrize("architecture", sorted(SHARDED))
def test_shards_compute_what_the_whole_does(findings: dict[str, dict[str, Any]], architecture: str) -> None:
    found = findings[architecture]
    assert "error" not in found, found["error"]
    assert found["whole"] < 1e-5
    assert found["stock"] < 1e-5  # the self-check, run by both ranks together
    assert found["kv_heads"] == KV_HEADS.get(architecture, 1)
