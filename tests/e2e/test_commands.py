"""The commands as a user types them, and services that cannot start."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from minedraft.cli.stack import Stack
from tests.e2e.conftest import run


def test_generate(stack: Stack) -> None:
    result = run("minedraft", "generate", "--address", stack.coordinator, "--temperature", "0", "--json", "Hello")
    assert result.returncode == 0, result.stderr
    fields = json.loads(result.stdout)
    assert fields["completion_tokens"] == len(fields["token_ids"]) > 0


def test_generate_with_nobody_there() -> None:
    result = run("minedraft", "generate", "--address", "127.0.0.1:9", "Hello")
    assert result.returncode == 1
    assert "127.0.0.1:9" in result.stderr
    assert "Traceback" not in result.stderr


def test_bench_starts_a_stack_of_its_own() -> None:
    result = run(
        "minedraft", "bench", "--simulate", "drafter=1ms,verifier=2ms,accept=0.8", "--concurrency", "4",
        "--requests", "8", "--max-new-tokens", "20", "--json",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    fields = json.loads(result.stdout)
    assert fields["completed"] == 8
    assert fields["output_tokens"] == 8 * 20
    assert fields["acceptance_length"] > 1.5
    assert 0 < fields["verifier_busy"] <= 1


def refused(module: str, *flags: str | Path) -> str:
    """What a service says that cannot start: one line (gRPC may have had its own word before), exit code 2."""
    result = run(sys.executable, "-m", module, *flags)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line and "add_port.cc" not in line]
    return line


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    said = refused("verifier_service", "--model", tmp_path / "nothing", "--listen", "127.0.0.1:0")
    assert f"there is no model at {tmp_path / 'nothing'}" in said


def test_an_architecture_that_is_not_supported(pair: tuple[Path, Path], tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(pair[0], copy)
    settings = json.loads((copy / "config.json").read_text()) | {"model_type": "gemma3"}
    (copy / "config.json").write_text(json.dumps(settings))
    assert "gemma3" in refused("verifier_service", "--model", copy, "--listen", "127.0.0.1:0")


@pytest.mark.parametrize(
    ("module", "flags"),
    [("drafter_service", ("--model", "ngram")), ("coordinator", ("--verifier", "127.0.0.1:9"))],
)
def test_a_port_that_is_taken(stack: Stack, module: str, flags: tuple[str, ...]) -> None:
    assert stack.coordinator in refused(module, *flags, "--listen", stack.coordinator)


def test_a_setting_that_is_out_of_range() -> None:
    assert "lanes" in refused("coordinator", "--verifier", "127.0.0.1:9", "--lanes", "0")
