"""The services as the manifests configure them, on loopback: a client gets its answer, and probes of pods pass."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

import coordinator.__main__ as coordinator_main
import drafter_service.__main__ as drafter_main
import verifier_service.__main__ as verifier_main
from minedraft import config
from minedraft.config import environment_for_services
from minedraft.http import __main__ as http_main
from minedraft.process import Service
from tests.certificates import Authority
from tests.deploy.pods import SETTINGS, Container, containers
from tests.deploy.variants import Variants
from tests.models import tiny_llama

BUILD: dict[str, Callable[[Any], Service]] = {
    "verifier": verifier_main.build,
    "drafter": drafter_main.build,
    "coordinator": coordinator_main.build,
    "http": http_main.build,
}
SECRETS = Path("/etc/minedraft")
TOKEN, KEY = "t" * 32, "an-api-key-of-the-door"
READY_SECONDS = 30.0


def fill_secrets(folder: Path, mounts: dict[str, str]) -> None:
    """What docs/kubernetes.md puts into each Secret, at the paths that it is mounted at. `mounts`: names by paths."""
    authorities = {}
    for name in ("inside", "front"):
        (folder / name).mkdir()
        authorities[name] = Authority(folder / name, name)
    hosts = {"inside": ("minedraft-model",), "front": ("minedraft",)}
    for path, held in mounts.items():
        place = folder / Path(path).relative_to(SECRETS)
        place.mkdir(exist_ok=True)
        if held == "minedraft-tokens":
            (place / "tokens").write_text(f"door:{TOKEN}\n")
        elif held == "minedraft-door":
            (place / "token").write_text(f"door:{TOKEN}\n")
            (place / "keys").write_text(f"{KEY}\n")
        else:
            kind = "front" if held == "minedraft-front" else "inside"
            pair = authorities[kind].issue("pair", hosts=hosts[kind])
            (place / "tls.crt").write_bytes(pair.cert.read_bytes())
            (place / "tls.key").write_bytes(pair.key.read_bytes())
            (place / "ca.crt").write_bytes(authorities[kind].file.read_bytes())
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o600)


class Stack:
    """The four services of one variant. `listens` has their addresses."""

    def __init__(self, found: list[Container], folder: Path, target: Path) -> None:
        self.containers = {container.name: container for container in found}
        self.listens: dict[str, str] = {}
        self.running: list[Service] = []
        self._folder = folder
        self._target = target

    async def start(self) -> None:
        for name in ("verifier", "drafter", "coordinator", "http"):
            with pytest.MonkeyPatch.context() as patch:
                for variable, value in self._here(name).items():
                    patch.setenv(variable, value)
                service = BUILD[name](config.load(SETTINGS[name], name, []))
            self.running.append(service)
            self.listens[name] = await service.start()

    async def stop(self) -> None:
        for service in reversed(self.running):
            await service.stop()

    def _here(self, name: str) -> dict[str, str]:
        """The container's environment, with what differs on this machine: addresses, models, where Secrets lie."""
        told = {key: self.moved(value) for key, value in self.containers[name].environment.items()}
        models = {"verifier": str(self._target), "drafter": "ngram"}
        told |= {"MINEDRAFT_LISTEN": "127.0.0.1:0", "MINEDRAFT_GRACE_SECONDS": "0.2", "MINEDRAFT_LOG_LEVEL": "error"}
        told |= {"MINEDRAFT_MODEL": models[name]} if name in models else {}
        told |= {"MINEDRAFT_CHANNEL_HOST": "127.0.0.1"} if name in models else {}
        for variable in ("VERIFIER", "DRAFTER", "COORDINATOR"):
            if f"MINEDRAFT_{variable}" in told:
                told[f"MINEDRAFT_{variable}"] = self.listens[variable.lower()]
        return told

    def moved(self, value: str) -> str:
        return value.replace(str(SECRETS), str(self._folder))

    def probe(self, name: str) -> subprocess.CompletedProcess[str]:
        """Run the container's readiness command as the kubelet would."""
        command = [self.moved(word) for word in self.containers[name].spec["readinessProbe"]["exec"]["command"]]
        path = {"PYTHONPATH": os.pathsep.join(sys.path)}
        return subprocess.run(
            [sys.executable, *command[1:]],
            env=environment_for_services() | path | {"MINEDRAFT_LISTEN": self.listens[name]},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip


@asynccontextmanager
async def stack(variants: Variants, variant: str, folder: Path) -> AsyncIterator[Stack]:
    found = list(containers(variants, variant))
    (folder / "etc").mkdir()
    mounts = {
        path: volume["secret"]["secretName"]
        for container in found
        for path, volume in container.mounts.items()
        if "secret" in volume
    }
    if mounts:
        fill_secrets(folder / "etc", mounts)
    running = Stack(found, folder / "etc", tiny_llama(folder / "target"))
    try:
        await running.start()
        yield running
    finally:
        await running.stop()


async def ready(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(READY_SECONDS):
        while (await client.get("/health")).status_code != 200:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("variant", ["cpu", "cpu+"])
async def test_a_client_of_the_door_is_served(variants: Variants, variant: str, tmp_path: Path) -> None:
    async with (
        stack(variants, variant, tmp_path) as running,
        httpx.AsyncClient(base_url=f"http://{running.listens['http']}", timeout=60) as client,
    ):
        await ready(client)
        name = "target"
        asked = {"model": name, "prompt": "Hi", "max_tokens": 4}
        key = {"Authorization": f"Bearer {KEY}"} if variant.endswith("+") else {}
        answer = await client.post("/v1/completions", json=asked, headers=key)
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["completion_tokens"] == 4
        if not variant.endswith("+"):
            return
        assert (await client.post("/v1/completions", json=asked)).status_code == 401
        for probed in ("verifier", "drafter", "coordinator"):
            done = await asyncio.to_thread(running.probe, probed)
            assert done.returncode == 0, f"{probed}: {done.stderr}"
            assert "is SERVING" in done.stdout
        await running.running[0].stop()
        assert (await asyncio.to_thread(running.probe, "verifier")).returncode == 1
