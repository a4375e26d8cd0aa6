"""A verifier of two processes over gloo: the tokens of one process, and what happens when one of the two is lost."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from minedraft.cli.stack import Stack, StackOptions
from minedraft.client import AsyncClient
from minedraft.generation import GenerateRequest, TokenIds
from minedraft.model.byte_tokenizer import BOS_ID, EOS_ID
from minedraft.types import SamplingParams
from tests.cluster import cluster
from tests.models import randomise, tiny_llama, write_byte_tokenizer

GREEDY = SamplingParams(temperature=0, max_new_tokens=64, ignore_eos=True)
SEEDED = SamplingParams(temperature=0.8, seed=7, max_new_tokens=64, ignore_eos=True)
PROMPTS = [[65 + (7 * i + j) % 90 for j in range(5 + 3 * i)] for i in range(8)]
WORKER = re.compile(r"processes=\[(\d+)\]")
TIMEOUT = 3.0
PATIENCE = 120.0


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "llama", dtype="float32")


def tiny_qwen2(folder: Path) -> Path:
    """Biases in attention, a tied output layer, and a vocabulary that does not divide by two."""
    config = Qwen2Config(
        vocab_size=301, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=BOS_ID, eos_token_id=EOS_ID,
        tie_word_embeddings=True, pad_token_id=None,
    )  # fmt: skip
    model: Any = Qwen2ForCausalLM(config)
    randomise(model, seed=3)
    model.save_pretrained(folder)
    write_byte_tokenizer(folder, 301)
    return folder


def references(folder: Path) -> list[tuple[int, ...]]:
    """The greedy tokens of `generate`."""
    factory: Any = AutoModelForCausalLM
    model = factory.from_pretrained(folder, dtype=torch.float32)
    tokens = []
    for prompt in PROMPTS:
        given = torch.tensor([prompt])
        model.generation_config.eos_token_id = None
        mask = torch.ones_like(given)
        out = model.generate(given, attention_mask=mask, max_new_tokens=64, do_sample=False, pad_token_id=0)
        tokens.append(tuple(out[0, len(prompt) :].tolist()))
    return tokens


async def outputs(client: AsyncClient, sampling: SamplingParams = GREEDY) -> list[tuple[int, ...]]:
    requests = [GenerateRequest(TokenIds(tuple(prompt)), sampling) for prompt in PROMPTS]
    return [output.token_ids for output in await asyncio.gather(*map(client.complete, requests))]


async def of_one_rank(folder: Path, sampling: SamplingParams) -> list[tuple[int, ...]]:
    async with cluster(folder, "ngram", model={"dtype": "float32"}) as one:
        return await outputs(one.client, sampling)


def alive(pid: int) -> bool:
    """Whether the process runs. One that ended and was not waited for yet does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 20
    while alive(pid):
        assert time.monotonic() < deadline, f"process {pid} was left behind"
        time.sleep(0.05)


class Watched:
    """A stack with a verifier of two ranks, and its log."""

    def __init__(self, folder: Path) -> None:
        self.lines: list[str] = []
        self.stack = Stack(
            StackOptions(
                target=str(folder),
                draft="ngram",
                dtype="float32",
                threads_verifier=1,
                verifier_flags=("--tensor-parallel", "2", "--parallel-timeout-seconds", f"{TIMEOUT:g}"),
            ),
            log=lambda service, line: self.lines.append(line),
        )

    def workers(self) -> list[int]:
        """The worker of each start so far."""
        return [int(pid) for line in list(self.lines) for pid in WORKER.findall(line)]

    async def restarted(self, starts: int) -> None:
        """Return once the verifier has been started so often, and serves."""
        deadline = time.monotonic() + PATIENCE
        while len(self.workers()) < starts:
            assert time.monotonic() < deadline, "the verifier was not started again"
            await asyncio.sleep(0.05)


@pytest.fixture(scope="module")
def watched(target: Path) -> Iterator[Watched]:
    watched = Watched(target)
    with watched.stack:
        yield watched
    for pid in watched.workers():
        wait_gone(pid)


async def progressed(client: AsyncClient, rounds: int) -> None:
    begun = (await client.server_info()).speculation.rounds
    while (await client.server_info()).speculation.rounds < begun + rounds:
        await asyncio.sleep(0.005)


async def test_two_ranks_give_the_tokens_of_one(watched: Watched, target: Path) -> None:
    async with AsyncClient(watched.stack.coordinator) as client:
        greedy, seeded = await outputs(client), await outputs(client, SEEDED)
    assert greedy == references(target) == await of_one_rank(target, GREEDY)
    assert seeded == await of_one_rank(target, SEEDED)
    assert len({token for tokens in greedy for token in tokens}) > 20  # else equality would say little
    assert any("self-check passed" in line for line in watched.lines)


@pytest.mark.parametrize(
    ("victim", "number", "reason"),
    [
        ("worker", signal.SIGKILL, "rank 1 .* was killed by SIGKILL"),
        ("worker", signal.SIGSTOP, "rank 0 failed: .*[Tt]imed out|rank 1 has not read its orders"),
        ("rank 0", signal.SIGKILL, ""),
    ],
)
async def test_a_lost_rank_ends_both_and_requests_finish(
    watched: Watched, target: Path, victim: str, number: signal.Signals, reason: str
) -> None:
    """The whole verifier is started again, and every request has the tokens of an undisturbed run."""
    async with AsyncClient(watched.stack.coordinator) as client:
        await client.wait_ready(PATIENCE)
        starts, seen = len(watched.workers()), len(watched.lines)
        worker, rank_0 = watched.workers()[-1], watched.stack.verifier_process.pid
        assert rank_0 is not None
        running = asyncio.create_task(outputs(client))
        await progressed(client, 5)
        assert not running.done(), "the load ended before the kill"
        os.kill(worker if victim == "worker" else rank_0, number)
        await asyncio.to_thread(wait_gone, rank_0)
        await asyncio.to_thread(wait_gone, worker)
        await watched.restarted(starts + 1)
        assert await running == references(target)
    told = [line for line in watched.lines[seen:] if "out of step" in line]
    assert (len(told) == 1 and re.search(reason, told[0])) if reason else not told


async def test_another_architecture_and_an_orderly_end(tmp_path: Path) -> None:
    """Rank 0 in this process; when the service stops, the worker ends and another group can be made."""
    folder = tiny_qwen2(tmp_path / "qwen2")
    settings = {"tensor_parallel": 2, "dtype": "float32", "device": "cpu", "self_check": True}
    async with cluster(folder, "ngram", model=settings) as two:
        tokens = await outputs(two.client)
    assert tokens == references(folder)
    assert not torch.distributed.is_initialized()
