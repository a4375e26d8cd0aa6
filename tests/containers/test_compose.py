"""`docker compose up` and a client outside: answers, what the containers may do, kills under load, an orderly end.

The tests share one composition. Each leaves all of it serving, but for the last, which takes it down.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from minedraft.client import Client
from minedraft.generation import Chat, ChatMessage, FinishReason, GenerateRequest, Output, ServerInfo, Text
from minedraft.types import ChannelKind, SamplingParams
from tests.containers.conftest import Served
from tests.containers.engine import IMAGES, docker

pytestmark = [pytest.mark.containers, pytest.mark.timeout(1200)]

SHM = ChannelKind.SHM.value
QUESTION = "What is the capital of France?"
LOAD = [
    GenerateRequest(
        Text(f"Here is a list of {words}:"),
        SamplingParams(temperature=0.8 if words == "towns" else 0, seed=3, max_new_tokens=96, ignore_eos=True),
    )
    for words in ("rivers", "animals", "towns", "numbers")
]
# The service's own process, below the one that Docker starts: only that one can be killed from within.
CRASH = """
import os, pathlib, signal
for process in pathlib.Path("/proc").glob("[0-9]*"):
    words = (process / "cmdline").read_bytes().split(b"\\0")
    if words[1:3] == [b"-m", b"verifier_service"]:
        os.kill(int(process.name), signal.SIGKILL)
        print("killed", end="")
"""
WRITABLE = """
import os, tempfile
for folder in {folders}:
    try:
        with tempfile.TemporaryFile(dir=folder):
            print(folder, end=" ")
    except OSError:
        pass
"""
RIGHTS = """
wanted = ("Uid", "CapEff", "CapBnd", "NoNewPrivs")
lines = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(*(lines[name].split()[0] for name in wanted))
"""


def test_a_client_outside_of_the_containers_is_answered(served: Served) -> None:
    chat = Chat((ChatMessage("user", QUESTION),))
    with served.client() as client:
        pieces = list(client.generate(GenerateRequest(chat, SamplingParams(temperature=0, max_new_tokens=32))))
        info = client.server_info()
    assert "Paris" in "".join(piece.text for piece in pieces)
    assert pieces[-1].finish_reason is FinishReason.EOS
    assert pieces[-1].speculation is not None
    assert pieces[-1].speculation.accepted_tokens > 0  # the drafter took part
    assert info.drafter.channel == SHM  # between two containers


def test_dense_laws_go_from_container_to_container(served: Served) -> None:
    with served.client() as client:
        before = client.server_info().drafter
        output = client.complete(GenerateRequest(Text("Once upon a time"), SamplingParams(1.0, max_new_tokens=24)))
        after = client.server_info().drafter
    assert len(output.token_ids) > 0
    assert after.payloads > before.payloads
    assert after.payloads_replaced == before.payloads_replaced


def test_the_http_door_answers_too(served: Served) -> None:
    asked = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": 32, "temperature": 0, "logprobs": True}
    with httpx.Client(base_url=served.url, timeout=60) as door:
        assert door.get("/health").status_code == 200
        answer = door.post("/v1/chat/completions", json=asked).raise_for_status().json()
    assert "Paris" in answer["choices"][0]["message"]["content"]
    assert answer["choices"][0]["logprobs"]["content"][0]["bytes"]  # it has the tokenizer


@pytest.mark.parametrize("service", IMAGES)
def test_every_container_is_healthy(served: Served, service: str) -> None:
    until(lambda: served.compose.inspect(service)["State"]["Health"]["Status"] == "healthy", seconds=120)


@pytest.mark.parametrize("service", IMAGES)
def test_a_container_may_do_little(served: Served, service: str) -> None:
    uid, effective, bounding, no_new_privileges = served.compose.python(service, RIGHTS).split()
    assert uid == "10001"
    assert int(effective, 16) == int(bounding, 16) == 0
    assert no_new_privileges == "1"
    folders = ("/", "/etc", "/opt/minedraft", "/home", "/models", "/dev/shm", "/run/minedraft", "/tmp")
    writable = served.compose.python(service, WRITABLE.format(folders=folders)).split()
    shared = ["/run/minedraft"] if service in {"verifier", "drafter"} else []
    assert writable == ["/dev/shm", *shared, "/tmp"]
    assert served.compose.inspect(service)["HostConfig"]["Memory"] > 0


def test_only_loopback_leads_in(served: Served) -> None:
    bindings = {service: served.compose.inspect(service)["HostConfig"]["PortBindings"] or {} for service in IMAGES}
    hosts = {service: {b["HostIp"] for port in ports.values() for b in port} for service, ports in bindings.items()}
    assert hosts == {"verifier": set(), "drafter": set(), "coordinator": {"127.0.0.1"}, "http": {"127.0.0.1"}}
    for service in ("verifier", "drafter"):
        networks = served.compose.inspect(service)["NetworkSettings"]["Networks"]
        assert [docker("network", "inspect", "--format", "{{.Internal}}", name).strip() for name in networks] == [
            "true"
        ]


@pytest.mark.parametrize("service", ["drafter", "verifier"])
def test_a_killed_container_costs_no_request(served: Served, undisturbed: list[Output], service: str) -> None:
    with served.client() as client:
        before = client.server_info()
        with under_load(client) as running:
            docker("kill", served.compose.container(service))
            assert not any(future.done() for future in running)
            if service == "drafter":  # they go on without it
                rounds = client.server_info().speculation.rounds
                until(lambda: client.server_info().speculation.rounds > rounds)
            served.start(service)
            assert texts(running) == [output.text for output in undisturbed]
        after = client.wait_ready(300, drafter=True)
    assert after.aborted_requests == before.aborted_requests
    assert after.drafter.channel == SHM  # found again


def test_docker_restarts_a_service_that_crashed(served: Served, undisturbed: list[Output]) -> None:
    with served.client() as client, under_load(client) as running:
        assert served.compose.python("verifier", CRASH) == "killed"
        assert texts(running) == [output.text for output in undisturbed]
        client.wait_ready(300, drafter=True)
    assert served.compose.inspect("verifier")["RestartCount"] == 1


@pytest.mark.parametrize("service", IMAGES)
def test_sigterm_ends_a_container_in_order(served: Served, service: str) -> None:
    container = served.compose.container(service)
    begun = time.monotonic()
    docker("stop", "--time", "30", container)
    seconds = time.monotonic() - begun
    state = served.compose.inspect(service)["State"]
    docker("start", container)
    served.wait()
    assert state["ExitCode"] == 0  # 137 is what SIGKILL after the 30 s would leave
    assert not state["OOMKilled"]
    assert seconds < 30


def test_running_requests_outlive_sigterm(served: Served, undisturbed: list[Output]) -> None:
    with served.client() as client, under_load(client) as running:
        docker("stop", "--time", "120", served.compose.container("coordinator"))
        assert served.compose.inspect("coordinator")["State"]["ExitCode"] == 0
        assert texts(running) == [output.text for output in undisturbed]
    served.start("coordinator")
    served.wait()


def test_down_leaves_nothing(served: Served) -> None:
    assert {kind: bool(names) for kind, names in served.compose.left().items()} == {
        "containers": True,
        "networks": True,
        "volumes": True,
    }
    served.compose("down", "--volumes", "--timeout", "30")
    assert served.compose.left() == {"containers": [], "networks": [], "volumes": []}


@pytest.fixture(scope="module")
def undisturbed(served: Served) -> list[Output]:
    """What the load is answered when nothing happens."""
    with served.client() as client, ThreadPoolExecutor(len(LOAD)) as threads:
        return list(threads.map(client.complete, LOAD))


@contextmanager
def under_load(client: Client) -> Iterator[list[Future[Output]]]:
    """The load's requests, all of them in their midst."""
    begun = client.server_info()
    with ThreadPoolExecutor(len(LOAD)) as threads:
        running = [threads.submit(client.complete, request) for request in LOAD]
        until(lambda: in_the_midst(client.server_info(), begun))
        yield running


def in_the_midst(info: ServerInfo, begun: ServerInfo) -> bool:
    return (
        sum(lane.requests for lane in info.lanes) == len(LOAD)
        and info.speculation.rounds >= begun.speculation.rounds + 5
    )


def texts(running: list[Future[Output]]) -> list[str]:
    return [future.result(300).text for future in running]


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not become true")
        time.sleep(0.02)
