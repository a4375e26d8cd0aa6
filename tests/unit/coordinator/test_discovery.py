"""Addresses and names of model services."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from coordinator.discovery import Target, addresses, read_targets, resolve
from coordinator.fleet import Replicas
from minedraft.errors import SetupError


def test_targets_are_addresses_and_names() -> None:
    assert read_targets("a:1, [::1]:2,dns:pods.example:50052,dns://other:3", "--verifier") == (
        Target("a", 1),
        Target("[::1]", 2),
        Target("pods.example", 50052, named=True),
        Target("other", 3, named=True),
    )


@pytest.mark.parametrize(
    "text", ["", "a", "a:", ":1", "a:b", "a:0", "a:70000", "a:1,,b:2", "dns:", "dns:a", "a:\u0661"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(SetupError, match=r"--drafter: .*HOST:PORT"):
        read_targets(text, "--drafter")


async def test_every_address_counts_once_in_order() -> None:
    async def lookup(name: str, port: int) -> Sequence[str]:
        return [f"10.0.0.2:{port}", f"10.0.0.1:{port}"]

    targets = (Target("a", 1), Target("pods", 7, named=True), Target("10.0.0.1", 7))
    assert await addresses(targets, lookup) == ["a:1", "10.0.0.2:7", "10.0.0.1:7"]


async def test_names_are_resolved_by_the_system() -> None:
    assert "127.0.0.1:50052" in await resolve("localhost", 50052)


@pytest.mark.parametrize("number", [socket.EAI_NONAME, socket.EAI_AGAIN])
async def test_an_unknown_name_is_nobody_and_a_silent_name_service_is_an_error(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def getaddrinfo(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(number, "no")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo, raising=False)
    if number == socket.EAI_NONAME:
        assert await resolve("nobody.invalid", 1) == []
    else:
        with pytest.raises(OSError, match="no"):
            await resolve("nobody.invalid", 1)


class Replica:
    """A peer that tests connect and disconnect."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.linked = True
        self.running = False
        self.on_change: list[Any] = []

    def start(self) -> None:
        self.running = True

    async def stop(self) -> None:
        self.running = False


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def test_replicas_follow_a_name_and_keep_who_is_connected() -> None:
    found: list[str] | None = ["a:1", "b:1"]
    made: dict[str, Replica] = {}

    async def lookup(name: str, port: int) -> Sequence[str]:
        if found is None:
            raise OSError("the name service is silent")
        return found

    def make(address: str) -> Any:
        made[address] = Replica(address)
        return made[address]

    replicas: Replicas[Any] = Replicas([Target("pods", 1, named=True)], make, 0.01, lookup)
    told: list[None] = []
    replicas.on_change.append(lambda: told.append(None))
    await replicas.start()
    await until(lambda: set(replicas.peers) == {"a:1", "b:1"})
    assert made["a:1"].running
    assert told
    found = ["b:1", "c:1"]
    await until(lambda: set(replicas.peers) == {"a:1", "b:1", "c:1"})  # a is still connected: it may be draining
    made["a:1"].linked = False
    await until(lambda: set(replicas.peers) == {"b:1", "c:1"})
    await until(lambda: not made["a:1"].running)
    found = None  # nothing is known: nobody is dropped
    made["b:1"].linked = False
    await asyncio.sleep(0.05)
    assert set(replicas.peers) == {"b:1", "c:1"}
    found = []
    await until(lambda: set(replicas.peers) == {"c:1"})
    await replicas.stop()
    assert not made["c:1"].running
