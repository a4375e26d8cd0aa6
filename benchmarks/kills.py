"""kill -9 of the drafter at random moments while dense laws go over shared memory. What must stay: every token.

    python -m benchmarks.kills [--kills 100] [--seed 0]

Simulated devices, every other line of code the real one. Requests at temperature 1 run all the time, their drafts drawn
from dense laws; the simulated target is certain of each token, so there is one right output for each prompt: the
one that plain decoding gives. Every other kill comes within two seconds of a drafter's first word, which meets the
handshake; the others come within one second of the channel's opening, which meets payloads on their way. Writes
benchmarks/results/kills.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.load import Load
from benchmarks.record import record
from minedraft.cli.service import ServiceProcess
from minedraft.client import AsyncClient
from minedraft.types import SamplingParams

SIMULATE = "drafter=1ms,verifier=4ms,accept=0.7,vocab=4096"
ANYWHERE = "127.0.0.1:0"
READY_SECONDS = 120.0
REQUEST_SECONDS = 60.0
POLL_SECONDS = 0.02
AFTER_START_SECONDS = 2.0
AFTER_OPENING_SECONDS = 1.0
SAMPLING = SamplingParams(temperature=1.0, max_new_tokens=120, ignore_eos=True)
PROMPTS = tuple(tuple(65 + 7 * i + j for j in range(3 + i)) for i in range(8))


@dataclass(frozen=True, slots=True)
class Setting:
    """What is done."""

    kills: int
    folder: Path  # for shared memory
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it."""

    kills: int
    kills_with_channel_open: int  # at least so many
    requests: int
    wrong_tokens: int
    stuck_requests: int  # that failed, or took longer than REQUEST_SECONDS
    stuck_because: tuple[str, ...]
    leaked_segments: int
    channels_opened: int
    payloads: int
    payloads_replaced: int
    seconds: float


def run(setting: Setting) -> Outcome:
    """Start the services, kill the drafter again and again, stop them, and count."""
    log: list[str] = []
    engine = ("--simulate", SIMULATE, "--threads", "1", "--shm-dir", str(setting.folder), "--log-level", "warning")

    def started(name: str, module: str, flags: tuple[str, ...], listen: str = ANYWHERE) -> ServiceProcess:
        process = ServiceProcess(
            name, module, flags, listen=listen, log=lambda _, line: log.append(line), restart=False
        )
        process.start()
        process.wait_announced(READY_SECONDS)
        return process

    def drafter(listen: str = ANYWHERE) -> ServiceProcess:
        return started("drafter", "drafter_service", (*engine, "--draft-law", "dense"), listen)

    verifier, drafting = started("verifier", "verifier_service", engine), drafter()
    flags = (
        *("--verifier", verifier.address, "--drafter", drafting.address, "--channel", "shm"),
        *("--lanes", "2", "--draft-tokens", "4", "--log-level", "error"),
    )
    coordinator = started("coordinator", "coordinator", flags)
    dice = random.Random(setting.seed)

    async def disturb() -> Outcome:
        nonlocal drafting
        loop = asyncio.get_running_loop()
        begun = loop.time()
        async with AsyncClient(coordinator.address) as client:
            await client.wait_ready(READY_SECONDS, drafter=True)
            load = Load(client, SAMPLING, REQUEST_SECONDS)
            await load.learn(PROMPTS)
            tasks = load.start()
            met_open = 0
            for number in range(setting.kills):
                if number % 2:
                    met_open += await _channel_open(client)
                await asyncio.sleep(dice.uniform(0.0, AFTER_OPENING_SECONDS if number % 2 else AFTER_START_SECONDS))
                drafting.kill()
                await asyncio.to_thread(drafting.wait_ended, READY_SECONDS)
                drafting = await asyncio.to_thread(drafter, drafting.address)
                if number % 10 == 9:
                    print(f"{number + 1} kills, {load.requests} requests, {load.wrong_tokens} wrong tokens", flush=True)
            load.over = True
            await asyncio.gather(*tasks)
            info = (await client.wait_ready(READY_SECONDS, drafter=True)).drafter
            return Outcome(
                kills=setting.kills,
                kills_with_channel_open=met_open,
                requests=load.requests,
                wrong_tokens=load.wrong_tokens,
                stuck_requests=len(load.failed),
                stuck_because=tuple(load.failed),
                leaked_segments=0,
                channels_opened=info.channel_generation,
                payloads=info.payloads,
                payloads_replaced=info.payloads_replaced,
                seconds=round(loop.time() - begun, 1),
            )

    try:
        outcome = asyncio.run(disturb())
    finally:
        for process in (coordinator, drafting, verifier):
            process.terminate()
            if not process.wait_ended(5.0):
                process.kill()
    left = [path for path in setting.folder.iterdir() if path.name.startswith("minedraft-")]
    return Outcome(**(asdict(outcome) | {"leaked_segments": len(left)}))


async def _channel_open(client: AsyncClient) -> bool:
    """Wait for the channel to the drafter that was started last."""
    for _ in range(int(READY_SECONDS / POLL_SECONDS)):
        if (await client.server_info()).drafter.channel:
            return True
        await asyncio.sleep(POLL_SECONDS)
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="minedraft-kills-", dir=shared if shared.is_dir() else None) as folder:
        outcome = run(Setting(options.kills, Path(folder), options.seed))
    fields = {
        "simulate": SIMULATE,
        "requests_in_flight": len(PROMPTS),
        **asdict(outcome),
    }
    print(json.dumps(record("kills", fields), indent=1))


if __name__ == "__main__":
    main()
