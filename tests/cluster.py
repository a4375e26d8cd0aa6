"""The three services in this process, over real loopback gRPC. Tests that kill processes use `minedraft.cli.stack`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import drafter_service.__main__ as drafter_main
import verifier_service.__main__ as verifier_main
from coordinator.__main__ import build as build_coordinator
from minedraft.client import AsyncClient
from minedraft.config import CoordinatorSettings, DrafterSettings, VerifierSettings
from minedraft.generation import GenerateRequest, Output, TokenIds
from minedraft.process import Service
from minedraft.types import SamplingParams

ANYWHERE = "127.0.0.1:0"


@dataclass
class Cluster:
    """Handles on the running services. Mutated by `restart_drafter` and `restart_verifier` only."""

    client: AsyncClient
    coordinator: Service
    drafter: Service | None
    verifier: Service
    drafter_settings: DrafterSettings | None
    verifier_settings: VerifierSettings
    services: list[Service] = field(default_factory=list)

    async def stop_drafter(self) -> None:
        if self.drafter is not None:
            await self.drafter.stop()
            self.drafter = None

    async def start_drafter(self) -> None:
        if self.drafter_settings is not None:
            self.drafter = drafter_main.build(self.drafter_settings)
            await self.drafter.start()

    async def restart_verifier(self) -> None:
        await self.verifier.stop()
        self.verifier = verifier_main.build(self.verifier_settings)
        await self.verifier.start()

    async def token_ids(self, prompt: list[int], sampling: SamplingParams, **options: Any) -> tuple[int, ...]:
        return (await self.complete(prompt, sampling, **options)).token_ids

    async def complete(self, prompt: list[int], sampling: SamplingParams, **options: Any) -> Output:
        return await self.client.complete(GenerateRequest(TokenIds(tuple(prompt)), sampling, **options))


@asynccontextmanager
async def cluster(
    target: Path | str,
    draft: Path | str | None,
    *,
    model: dict[str, Any] | None = None,
    drafter: dict[str, Any] | None = None,
    client: dict[str, Any] | None = None,
    **coordinator: Any,
) -> AsyncIterator[Cluster]:
    """Serve `target` with `draft` (a folder, "ngram", or None). `model` and `drafter` are engine settings, `client` the
    options of the client, the rest the coordinator's settings. TLS is among them: see `tests.certificates`."""
    engine = {"grace_seconds": 0.2, "threads": 1, "self_check": False, "num_blocks": 512} | (model or {})
    verifier_settings = VerifierSettings(model=str(target), listen=ANYWHERE, **engine)
    verifier = verifier_main.build(verifier_settings)
    verifier_address = await verifier.start()
    running: list[Service] = [verifier]
    drafter_settings, drafter_service, drafter_address = None, None, "none"
    try:
        if draft is not None:
            drafter_settings = DrafterSettings(model=str(draft), listen=ANYWHERE, **(engine | (drafter or {})))
            drafter_service = drafter_main.build(drafter_settings)
            drafter_address = await drafter_service.start()
            drafter_settings = drafter_settings.model_copy(update={"listen": drafter_address})
            running.append(drafter_service)
        settings: dict[str, Any] = {"grace_seconds": 0.2, "verifier": verifier_address, "drafter": drafter_address}
        settings |= {"lanes": 2, "draft_tokens": 4}  # whatever pays on this machine, drafts are made
        coordinator_service = build_coordinator(CoordinatorSettings(listen=ANYWHERE, **(settings | coordinator)))
        running.append(coordinator_service)
        address = await coordinator_service.start()
        async with AsyncClient(address, **(client or {})) as caller:
            await caller.wait_ready(30)
            yield (
                here := Cluster(
                    caller,
                    coordinator_service,
                    drafter_service,
                    verifier,
                    drafter_settings,
                    verifier_settings.model_copy(update={"listen": verifier_address}),
                )
            )
            running = [here.verifier, *([here.drafter] if here.drafter else []), coordinator_service]
    finally:
        for service in reversed(running):
            await service.stop()
        await asyncio.sleep(0)
