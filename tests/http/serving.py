"""The real services with the door in front, in a thread of their own: tests may block, as a client would."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
from openai import AsyncOpenAI, OpenAI

from minedraft.config import HttpSettings
from minedraft.generation import GenerateRequest, Output, ServerInfo
from minedraft.http.service import HttpService
from tests.cluster import ANYWHERE, Cluster, cluster

T = TypeVar("T")
READY_SECONDS = 60


@dataclass(frozen=True)
class Running:
    """Handles on the running door and what is behind it. Its methods are called from the test's thread."""

    address: str
    door: HttpService
    cluster: Cluster
    loop: asyncio.AbstractEventLoop

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def run(self, work: Coroutine[Any, Any, T], seconds: float = 60) -> T:
        """Do something on the services' own loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(seconds)

    def over_grpc(self, request: GenerateRequest) -> Output:
        return self.run(self.cluster.client.complete(request))

    def info(self) -> ServerInfo:
        return self.run(self.cluster.client.server_info())

    def openai(self, api_key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0)

    def async_openai(self) -> AsyncOpenAI:
        return AsyncOpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60)


@contextmanager
def serving(target: Path, draft: Path | None, http: dict[str, Any] | None = None, **others: Any) -> Iterator[Running]:
    """`http` are the door's settings; `others` are those of `tests.cluster.cluster`."""
    ready: asyncio.Queue[None] | None = None
    box: list[Running | BaseException] = []
    told = threading.Event()

    async def run() -> None:
        nonlocal ready
        ready = asyncio.Queue()
        async with cluster(target, draft, **others) as here:
            settings: dict[str, Any] = {"tokenizer": str(target), "grace_seconds": 0.2}
            door = HttpService(
                HttpSettings(listen=ANYWHERE, coordinator=here.client.address, **(settings | (http or {})))
            )
            box.append(Running(await door.start(), door, here, asyncio.get_running_loop()))
            told.set()
            try:
                await ready.get()
            finally:
                await door.stop()

    def main() -> None:
        try:
            asyncio.run(run())
        except BaseException as error:
            box.append(error)
            told.set()
            raise

    thread = threading.Thread(target=main, name="services")
    thread.start()
    try:
        if not told.wait(READY_SECONDS):
            raise TimeoutError("the services did not start")
        running = box[0]
        if isinstance(running, BaseException):
            raise running
        yield running
    finally:
        if box and isinstance(box[0], Running) and ready is not None:
            box[0].loop.call_soon_threadsafe(ready.put_nowait, None)
        thread.join(READY_SECONDS)
