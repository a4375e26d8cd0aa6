"""Restart every drafter and every verifier, one by one, while requests run. What must stay: every request and token.

    python -m benchmarks.rolling [--rounds 10] [--concurrency 16] [--seed 0]

Two drafters and two verifiers behind one coordinator, each a process of its own; simulated devices, every other line
of code the real one. In a round each of the four is told to end by SIGTERM, awaited and started again at its address,
and then one of each kind is killed by SIGKILL and started again. All the while `concurrency` requests run. The
simulated target is certain of each token, so there is one right output for each prompt: the one that plain decoding
gives. Writes benchmarks/results/rolling.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass

from benchmarks.load import Load
from benchmarks.record import record
from minedraft.cli.service import ServiceProcess
from minedraft.client import AsyncClient
from minedraft.generation import ServerInfo
from minedraft.types import SamplingParams

SIMULATE = "drafter=1ms,verifier=5ms,accept=0.7,vocab=256"
ANYWHERE = "127.0.0.1:0"
READY_SECONDS = 120.0
REQUEST_SECONDS = 60.0
ENDING_SECONDS = 30.0
SAMPLING = SamplingParams(temperature=1.0, max_new_tokens=160, ignore_eos=True)
REPLICAS = 2


@dataclass(frozen=True, slots=True)
class Setting:
    """What is done."""

    rounds: int
    concurrency: int = 16
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    restarts: int
    kills: int
    exit_codes: tuple[int | None, ...]  # of the processes that were told to end
    requests: int
    failed: tuple[str, ...]
    wrong_tokens: int
    verifiers_used: int  # that had lanes with requests in the end
    seconds: float


@dataclass(slots=True)
class Replica:
    """A service and how to start it again at its address. Mutated by `restart` only."""

    process: ServiceProcess
    start: Callable[[str], ServiceProcess]

    async def restart(self, end: Callable[[ServiceProcess], None]) -> int | None:
        """End it, await that, start it again and await that; the exit code."""
        end(self.process)
        if not await asyncio.to_thread(self.process.wait_ended, ENDING_SECONDS):
            return None
        code = self.process.exit_code
        self.process = await asyncio.to_thread(self.start, self.process.address)
        return code


def run(setting: Setting) -> Outcome:
    """Start the services, restart each again and again, stop them, and count."""
    engine = ("--simulate", SIMULATE, "--threads", "1", "--log-level", "warning")

    def starter(name: str, module: str, flags: tuple[str, ...]) -> Callable[[str], ServiceProcess]:
        def start(listen: str) -> ServiceProcess:
            process = ServiceProcess(name, module, flags, listen=listen, log=lambda *_: None, restart=False)
            process.start()
            process.wait_announced(READY_SECONDS)
            return process

        return start

    def replicas(name: str, module: str) -> list[Replica]:
        start = starter(name, module, engine)
        return [Replica(start(ANYWHERE), start) for _ in range(REPLICAS)]

    verifiers, drafters = replicas("verifier", "verifier_service"), replicas("drafter", "drafter_service")
    flags = (
        *("--verifier", ",".join(replica.process.address for replica in verifiers)),
        *("--drafter", ",".join(replica.process.address for replica in drafters)),
        *("--lanes", "2", "--draft-tokens", "4", "--log-level", "error"),
    )
    coordinator = starter("coordinator", "coordinator", flags)(ANYWHERE)
    try:
        return asyncio.run(_disturb(setting, coordinator.address, verifiers, drafters))
    finally:
        for process in (coordinator, *(replica.process for replica in (*drafters, *verifiers))):
            process.terminate()
            if not process.wait_ended(5.0):
                process.kill()


async def _disturb(setting: Setting, address: str, verifiers: list[Replica], drafters: list[Replica]) -> Outcome:
    loop, dice = asyncio.get_running_loop(), random.Random(setting.seed)
    prompts = tuple(tuple(65 + (5 * i + j) % 60 for j in range(3 + i)) for i in range(setting.concurrency))
    begun, codes, kills = loop.time(), [], 0
    async with AsyncClient(address) as client:
        await _all_there(client)
        load = Load(client, SAMPLING, REQUEST_SECONDS)
        await load.learn(prompts)
        tasks = load.start()
        for _ in range(setting.rounds):
            for replica in (*verifiers, *drafters):
                await asyncio.sleep(dice.uniform(0.0, 0.5))
                codes.append(await replica.restart(ServiceProcess.terminate))
                await _all_there(client)
            for kind in (verifiers, drafters):
                await asyncio.sleep(dice.uniform(0.0, 0.5))
                await dice.choice(kind).restart(ServiceProcess.kill)
                kills += 1
                await _all_there(client)
            failed = len(load.failed)
            print(f"{len(codes)} restarts, {kills} kills, {load.requests} requests, {failed} failed", flush=True)
        used = {lane.verifier for lane in (await client.server_info()).lanes if lane.requests}
        load.over = True
        await asyncio.gather(*tasks)
    return Outcome(
        restarts=len(codes),
        kills=kills,
        exit_codes=tuple(sorted(set(codes), key=str)),
        requests=load.requests,
        failed=tuple(load.failed),
        wrong_tokens=load.wrong_tokens,
        verifiers_used=len(used),
        seconds=round(loop.time() - begun, 1),
    )


async def _all_there(client: AsyncClient) -> None:
    """Return once every replica is connected."""
    await client.wait_ready(READY_SECONDS)
    for _ in range(int(READY_SECONDS / 0.05)):
        info: ServerInfo = await client.server_info()
        peers = (*info.verifiers, *info.drafters)
        if len(peers) == 2 * REPLICAS and all(peer.connected for peer in peers):
            return
        await asyncio.sleep(0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--concurrency", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    outcome = run(Setting(options.rounds, options.concurrency, options.seed))
    fields = {"simulate": SIMULATE, "concurrency": options.concurrency, **asdict(outcome)}
    print(json.dumps(record("rolling", fields), indent=1))


if __name__ == "__main__":
    main()
