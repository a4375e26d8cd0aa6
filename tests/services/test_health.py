"""`python -m minedraft.health` against real servers, in every state and under mutual TLS."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from minedraft import health
from minedraft.config import HealthSettings, HttpSettings, ServiceSettings, environment_for_services
from minedraft.errors import PeerUnavailable, SetupError
from minedraft.http.service import HttpService
from minedraft.rpc.server import Server
from tests.certificates import Authority
from tests.cluster import ANYWHERE


async def asked(address: str, **settings: object) -> str:
    return await asyncio.to_thread(health.ask, HealthSettings.model_validate({"listen": address, **settings}))


async def test_it_says_what_grpc_health_says() -> None:
    server = Server(ServiceSettings(listen="0.0.0.0:0", grace_seconds=0), [])
    address = server.address
    await server.start()
    try:
        with pytest.raises(PeerUnavailable, match="is NOT_SERVING"):
            await asked(address)
        await server.serving()
        called = "127.0.0.1:" + address.rpartition(":")[2]
        assert await asked(address) == f"{called} is SERVING"
        await server.leaving()
        with pytest.raises(PeerUnavailable, match="is NOT_SERVING"):
            await asked(address)
    finally:
        await server.stop(0)
    with pytest.raises(PeerUnavailable, match=f"no answer from {called}"):
        await asked(address, timeout_seconds=2)


async def test_it_asks_under_mutual_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("service")
    settings = ServiceSettings.model_validate({"listen": ANYWHERE, **pair.server(authority.file)})
    server = Server(settings, [])
    await server.start()
    await server.serving()
    try:
        assert "is SERVING" in await asked(server.address, **pair.caller(authority.file))
        with pytest.raises(PeerUnavailable, match="no answer"):
            await asked(server.address, timeout_seconds=2)
        with pytest.raises(SetupError, match="--tls-ca"):
            await asked(server.address, tls_ca=str(tmp_path / "none.pem"))
    finally:
        await server.stop(0)


async def test_it_asks_the_http_door() -> None:
    door = HttpService(HttpSettings(listen=ANYWHERE, coordinator="127.0.0.1:1", grace_seconds=0))
    address = await door.start()
    try:
        with pytest.raises(PeerUnavailable, match="answered 503"):  # nobody behind it
            await asked(address, http=True)
    finally:
        await door.stop()
    with pytest.raises(PeerUnavailable, match="no answer"):
        await asked(address, http=True, timeout_seconds=2)


async def test_the_process_reads_the_services_own_variables() -> None:
    server = Server(ServiceSettings(listen=ANYWHERE), [])
    await server.start()
    await server.serving()
    try:
        code, said = await run(server.address)
        assert (code, said) == (0, f"{server.address} is SERVING\n")
        await server.leaving()
        code, said = await run(server.address)
        assert (code, said) == (1, f"health: {server.address} is NOT_SERVING\n")
        code, said = await run(server.address, "--timeout-seconds", "soon")
        assert code == 2
        assert said.startswith("health: --timeout-seconds:")
    finally:
        await server.stop(0)


async def test_it_loads_no_torch() -> None:
    words = "import sys, minedraft.health; assert 'torch' not in sys.modules"
    done = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", words], check=False)
    assert done.returncode == 0


async def run(listen: str, *flags: str) -> tuple[int, str]:
    """(exit code, what it said) of the command in a service's environment."""
    command = [sys.executable, "-m", "minedraft.health", *flags]
    environment = environment_for_services() | {"MINEDRAFT_LISTEN": listen}
    done = await asyncio.to_thread(
        subprocess.run, command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    return done.returncode, done.stdout + done.stderr
