"""The door as a process: announcement, exit codes, signals, and `minedraft up --http`."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from openai import OpenAI

from minedraft.cli.stack import Stack, StackOptions
from minedraft.cli.up import USUAL_HTTP, with_usual_http
from minedraft.config import environment_for_services
from minedraft.errors import SetupError
from tests.http.serving import Running

DOOR = [sys.executable, "-m", "minedraft.http", "--listen", "127.0.0.1:0", "--log-format", "json"]


def started(*flags: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*DOOR, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment_for_services()
    )


def test_it_announces_itself_and_ends_with_sigterm(here: Running) -> None:
    process = started("--announce", "--coordinator", here.cluster.client.address)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().removeprefix("listening ").strip()
        client = OpenAI(base_url=f"http://{address}/v1", api_key="none")
        answer = client.completions.create(model="target", prompt="Hi", max_tokens=3, extra_body={"ignore_eos": True})
        assert answer.usage is not None
        assert answer.usage.completion_tokens == 3
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(b"no http at all\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert '"route": "/v1/completions"' in errors
    assert '"service": "http"' in errors
    lines = [json.loads(line) for line in errors.splitlines()]  # uvicorn's own words too
    assert any("Invalid HTTP request" in line["event"] for line in lines)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--listen", "nowhere"], "--listen: 'nowhere' is not HOST:PORT"),
        (["--api-key-file", "/no/such/file"], "--api-key-file: /no/such/file cannot be read"),
        (["--tokenizer", "/no/such/folder"], "/no/such/folder has no tokenizer.json"),
    ],
)
def test_a_wrong_setup_is_one_line_and_exit_code_2(flags: list[str], said: str) -> None:
    process = started(*flags)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert said in errors
    assert "Traceback" not in errors


def test_up_brings_a_door(pair: tuple[Path, Path]) -> None:
    options = StackOptions(
        target=str(pair[0]), draft="none", http="127.0.0.1:0", threads_verifier=1, self_check=False, lanes=1
    )
    with Stack(options) as stack:
        assert stack.addresses["http"] == stack.http
        client = OpenAI(base_url=f"http://{stack.http}/v1", api_key="none")
        answer = client.chat.completions.create(
            model="target", messages=[{"role": "user", "content": "Hi"}], max_tokens=2, logprobs=True
        )
        assert answer.choices[0].logprobs is not None
        first = (answer.choices[0].logprobs.content or [])[0]
        assert first.bytes is not None  # it was told where the tokenizer is
        assert httpx.get(f"http://{stack.http}/health").status_code == 200
        door = stack.http
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{door}/health")


def test_a_wrong_http_address_is_told_by_its_flag(pair: tuple[Path, Path]) -> None:
    with pytest.raises(SetupError, match="--http: 'here' is not HOST:PORT"):
        Stack(StackOptions(target=str(pair[0]), draft="none", http="here")).start()


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (["--http"], ["--http", USUAL_HTTP]),
        (["--http", "--lanes", "2"], ["--http", USUAL_HTTP, "--lanes", "2"]),
        (["--http", "0.0.0.0:80", "--lanes", "2"], ["--http", "0.0.0.0:80", "--lanes", "2"]),
        (["--lanes", "2"], ["--lanes", "2"]),
        ([], []),
    ],
)
def test_http_may_stand_alone(given: list[str], read: list[str]) -> None:
    assert with_usual_http(given) == read
