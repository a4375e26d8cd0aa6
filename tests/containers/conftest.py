"""The composition, built and started once for this folder."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from minedraft.client import Client
from tests.containers.engine import BUILD_SECONDS, TAG, Composition, docker, why_not

READY_SECONDS = 300


@dataclass(frozen=True)
class Served:
    """A running composition and where clients outside of its containers find it."""

    compose: Composition
    address: str
    url: str

    def client(self) -> Client:
        return Client(self.address)

    def start(self, service: str) -> None:
        docker("start", self.compose.container(service))

    def wait(self) -> None:
        """Until everything is connected again."""
        with self.client() as client:
            client.wait_ready(READY_SECONDS, drafter=True)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="session")
def served() -> Iterator[Served]:
    """`docker compose up`. float32, so that outputs can be compared; dense laws, so that there is a channel."""
    if reason := why_not():
        pytest.skip(reason)
    grpc_port, http_port = free_port(), free_port()
    compose = Composition(
        {
            "MINEDRAFT_TAG": TAG,
            "MINEDRAFT_PORT": str(grpc_port),
            "MINEDRAFT_HTTP_PORT": str(http_port),
            "MINEDRAFT_DTYPE": "float32",
            "MINEDRAFT_DRAFT_LAW": "dense",
            "MINEDRAFT_THREADS_VERIFIER": "1",
            "MINEDRAFT_GRACE_SECONDS": "100",
        }
    )
    try:
        compose("build", seconds=BUILD_SECONDS)
        compose("up", "--detach", seconds=BUILD_SECONDS)
        running = Served(compose, f"127.0.0.1:{grpc_port}", f"http://127.0.0.1:{http_port}")
        running.wait()
        yield running
    finally:
        compose("down", "--volumes", "--timeout", "30")
