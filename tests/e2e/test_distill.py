"""The recipe from scratch, shortened: a tiny target, its answers, a trained draft model, a trial in the services."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import run
from tests.models import tiny_llama


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("distill") / "target", layers=4, dtype="float32")


def test_one_command_makes_a_drafter_that_the_services_take(target: Path, tmp_path: Path) -> None:
    trial = tmp_path / "trial.txt"
    trial.write_text("What is a lens?\nWhat is a lever?\n", encoding="utf-8")
    out = tmp_path / "out"
    command: list[str | Path] = [
        "minedraft", "distill", "--target", target, "--out", out, "--samples", "48", "--max-new-tokens", "24",
        "--layers", "0,1,-1", "--draft-vocab-size", "200", "--tokens", "12000", "--batch-tokens", "1024",
        "--threads", "1", "--matrix-rate", "0.003", "--trial", trial, "--json",
    ]  # fmt: skip
    result = run(*command, seconds=300)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report == json.loads((out / "report.json").read_text())
    assert report["samples"] == 48
    assert report["history"][-1]["loss"] < report["history"][0]["loss"]
    greedy, sampled = report["trials"]
    assert greedy["equal_answers"] == 2
    assert greedy["acceptance_length"] > 1.05  # chance would be 1.02
    assert sampled["equal_answers"] is None

    # Every stage is done: the second time nothing is written, learned or changed.
    written = (out / "corpus.jsonl").read_bytes(), (out / "drafter" / "model.safetensors").stat().st_size
    again = run(*command, seconds=300)
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["history"] == report["history"]
    assert written == ((out / "corpus.jsonl").read_bytes(), (out / "drafter" / "model.safetensors").stat().st_size)
