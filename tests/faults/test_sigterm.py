"""SIGTERM to each service as a process: health turns NOT_SERVING, running requests finish, the exit code is 0."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from openai import OpenAI

from minedraft.client import Client
from minedraft.config import environment_for_services
from minedraft.generation import FinishReason, GenerateRequest, Output, ServerInfo, TokenIds
from minedraft.types import SamplingParams

GRACE_SECONDS = 30
PATIENCE_SECONDS = 60
SIMULATED = ("--simulate", "drafter=5ms,verifier=20ms,accept=0.8", "--num-blocks", "512", "--threads", "1")
NEW_TOKENS = 200  # a second or more
LOAD = [
    GenerateRequest(
        TokenIds((1, 2, 3 + number)), SamplingParams(temperature=0, max_new_tokens=NEW_TOKENS, ignore_eos=True)
    )
    for number in range(4)
]


@dataclass
class Program:
    """A service as a process, started again at its own address. Used by one thread."""

    module: str
    flags: tuple[str, ...]
    address: str = "127.0.0.1:0"
    process: subprocess.Popen[str] = field(init=False)

    def start(self) -> None:
        """Return once it has announced its address."""
        common = ("--listen", self.address, "--announce", "--grace-seconds", str(GRACE_SECONDS), "--log-level", "error")
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module, *self.flags, *common],
            stdout=subprocess.PIPE,
            text=True,
            env=environment_for_services(),
        )
        assert self.process.stdout is not None
        with self.process.stdout as announcements:
            self.address = announcements.readline().removeprefix("listening ").strip()
        assert self.address, f"{self.module} did not start"

    def terminate(self) -> None:
        os.kill(self.process.pid, signal.SIGTERM)

    def wait(self) -> int:
        return self.process.wait(GRACE_SECONDS + PATIENCE_SECONDS)


@dataclass(frozen=True)
class Services:
    """The four, by name, and what the load is answered when nothing happens."""

    programs: dict[str, Program]
    undisturbed: list[Output]

    @property
    def coordinator(self) -> str:
        return self.programs["coordinator"].address

    def wait(self) -> None:
        """Until all are connected again."""
        with Client(self.coordinator) as client:
            client.wait_ready(PATIENCE_SECONDS, drafter=True)


@pytest.fixture(scope="module")
def services() -> Iterator[Services]:
    """Tests leave all four serving."""
    programs = {
        "verifier": Program("verifier_service", SIMULATED),
        "drafter": Program("drafter_service", (*SIMULATED, "--model", "simulated")),
    }
    try:
        for program in programs.values():
            program.start()
        peers = ("--verifier", programs["verifier"].address, "--drafter", programs["drafter"].address)
        programs["coordinator"] = Program("coordinator", peers)
        programs["coordinator"].start()
        programs["http"] = Program("minedraft.http", ("--coordinator", programs["coordinator"].address))
        programs["http"].start()
        with Client(programs["coordinator"].address) as client, ThreadPoolExecutor(len(LOAD)) as threads:
            client.wait_ready(PATIENCE_SECONDS, drafter=True)
            yield Services(programs, list(threads.map(client.complete, LOAD)))
    finally:
        for program in programs.values():
            program.process.kill()
            program.process.wait()


@pytest.mark.parametrize("name", ["coordinator", "drafter", "verifier"])
def test_sigterm_turns_health_and_costs_no_request(services: Services, name: str) -> None:
    program = services.programs[name]
    with Client(services.coordinator) as client, under_load(client) as running, watched(program.address) as health:
        assert next(health) == "SERVING"
        program.terminate()
        assert next(health) == "NOT_SERVING"
        assert not any(future.done() for future in running)
        health.close()
        if name == "verifier":  # requests wait for the next one
            assert program.wait() == 0
            program.start()
        outputs = [future.result(PATIENCE_SECONDS) for future in running]
        if name != "verifier":
            assert program.wait() == 0
            program.start()
    assert [output.finish_reason for output in outputs] == [FinishReason.LENGTH] * len(LOAD)
    assert [output.token_ids for output in outputs] == [output.token_ids for output in services.undisturbed]
    services.wait()


def test_sigterm_lets_the_doors_answers_finish(services: Services) -> None:
    program = services.programs["http"]
    client = OpenAI(base_url=f"http://{program.address}/v1", api_key="none", max_retries=0)
    stream = client.completions.create(
        model=client.models.list().data[0].id,
        prompt=[1, 2, 3],
        max_tokens=NEW_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    program.terminate()
    until_refused(program.address)
    *_, end = stream
    assert end.usage is not None
    assert end.usage.completion_tokens == NEW_TOKENS
    assert program.wait() == 0
    program.start()


@contextmanager
def under_load(client: Client) -> Iterator[list[Future[Output]]]:
    """The load's requests, all of them in their midst."""
    begun = client.server_info().speculation.rounds
    with ThreadPoolExecutor(len(LOAD)) as threads:
        running = [threads.submit(client.complete, request) for request in LOAD]
        while not in_the_midst(client.server_info(), begun):
            time.sleep(0.005)
        yield running


def in_the_midst(info: ServerInfo, begun: int) -> bool:
    """Whether the whole load is in lanes, some rounds after `begun`."""
    return sum(lane.requests for lane in info.lanes) == len(LOAD) and info.speculation.rounds >= begun + 5


@contextmanager
def watched(address: str) -> Iterator[Any]:
    """The names of a server's states of health, as it tells them."""
    with grpc.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        call = stub.Watch(health_pb2.HealthCheckRequest(), timeout=PATIENCE_SECONDS)

        def names() -> Iterator[str]:
            try:
                for answer in call:
                    yield health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
            finally:
                call.cancel()

        yield names()


def until_refused(address: str) -> None:
    """Until nobody is let in any more."""
    for _ in range(PATIENCE_SECONDS * 100):
        try:
            httpx.get(f"http://{address}/health")
        except httpx.ConnectError:
            return
        time.sleep(0.01)
    raise TimeoutError(f"{address} still takes connections")
