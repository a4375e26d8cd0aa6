"""The example clients against the real services."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from minedraft.cli.stack import Stack
from minedraft.client import Client
from minedraft.generation import Chat, ChatMessage, GenerateRequest, Text
from minedraft.types import SamplingParams
from tests.e2e.conftest import REPOSITORY, run

PROMPT = "Say something."


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example beside a copy of the protocol, with its packages installed as the lock file says."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    copy = tmp_path_factory.mktemp("clone")
    shutil.copytree(REPOSITORY / "protos", copy / "protos")
    shutil.copytree(REPOSITORY / "examples/node", copy / "examples/node", ignore=shutil.ignore_patterns("node_modules"))
    folder = copy / "examples/node"
    installed = run("npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts", cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return folder


@pytest.mark.parametrize("seed", [None, 2**64 - 1])
def test_node_gets_what_python_gets(stack: Stack, node: Path, seed: int | None) -> None:
    sampling = SamplingParams(temperature=0.0 if seed is None else 0.8, seed=seed, max_new_tokens=24)
    with Client(stack.coordinator) as client:
        wanted = client.complete(GenerateRequest(Chat((ChatMessage("user", PROMPT),)), sampling))
    assert wanted.finish_reason is not None
    assert wanted.usage is not None
    seeded = [] if seed is None else ["--temperature", "0.8", "--seed", str(seed)]
    result = run(
        "node", "generate.mjs", "--address", stack.coordinator, "--max-new-tokens", "24", *seeded, PROMPT, cwd=node
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == wanted.text
    assert f"{wanted.usage.completion_tokens} tokens, FINISH_REASON_{wanted.finish_reason.name}" in result.stderr
    assert "acceptance length " in result.stderr


def test_node_sees_errors(stack: Stack, node: Path) -> None:
    refused = run("node", "generate.mjs", "--address", stack.coordinator, "--temperature=-1", PROMPT, cwd=node)
    assert refused.returncode == 1
    assert refused.stderr.startswith("INVALID_ARGUMENT: sampling.temperature: ")
    late = run("node", "generate.mjs", "--address", stack.coordinator, "--deadline", "0.001", PROMPT, cwd=node)
    assert late.returncode == 1
    assert late.stderr.startswith("DEADLINE_EXCEEDED")
    with Client(stack.coordinator) as client:  # and the server is none the worse for it
        assert client.complete(GenerateRequest(Text("x"), SamplingParams(max_new_tokens=2, ignore_eos=True))).token_ids


def test_the_python_example(stack: Stack) -> None:
    result = run(sys.executable, REPOSITORY / "examples/python/stream.py", stack.coordinator)
    assert result.returncode == 0, result.stderr
    assert "acceptance length " in result.stdout
    assert result.stdout.endswith("the same both times: True\n")
