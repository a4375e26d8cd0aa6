"""Connections that come to nothing: 10,000 opened and dropped against a coordinator. What they leave behind.

    python -m benchmarks.connections [--connections 10000] [--at-once 300] [--plaintext]

A quarter each is dropped without a word, sends bytes of no protocol, begins a TLS handshake and goes, and stays silent
until the server closes it. The target is simulated; the coordinator is the real one, with TLS and a token. Its memory
is taken after requests, so that what it loads on first use is there before. Writes benchmarks/results/connections.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import ssl
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.record import record
from coordinator.memory import LONGEST_SECONDS
from minedraft.cli.access import Protection
from minedraft.cli.stack import Stack, StackOptions
from minedraft.client import Client
from minedraft.generation import GenerateRequest, TokenIds
from minedraft.types import SamplingParams

KINDS = ("nothing", "garbage", "TLS hello", "silence")
SIMULATED = "drafter=1ms,verifier=2ms,accept=0.8"
HANDSHAKE_SECONDS = 2.0
SETTLE_SECONDS = 10.0
PATIENCE_SECONDS = 30.0
REQUEST = GenerateRequest(TokenIds((1, 2, 3)), SamplingParams(temperature=0, max_new_tokens=32, ignore_eos=True))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--at-once", type=int, default=300)
    parser.add_argument("--plaintext", action="store_true", help="without TLS and tokens")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        protection = Protection() if arguments.plaintext else _protection(Path(folder))
        flags = ("--handshake-timeout-seconds", f"{HANDSHAKE_SECONDS:g}")
        options = StackOptions(simulate=SIMULATED, protection=protection, coordinator_flags=flags)
        with Stack(options) as stack, protection.client(stack.coordinator) as client:
            fields = _measure(stack, client, arguments.connections, arguments.at_once)
    print(json.dumps(record("connections", {"tls": not arguments.plaintext, **fields}), indent=1))


def _measure(stack: Stack, client: Client, connections: int, at_once: int) -> dict[str, Any]:
    process = stack.coordinator_process
    if process is None or process.pid is None:
        raise SystemExit("the coordinator has ended")
    pid = process.pid
    wanted = client.complete(REQUEST).token_ids
    for _ in range(20):
        client.complete(REQUEST)
    rounds = []
    for number in range(2):  # the second shows whether what the first left behind adds up
        before = _settled(pid)
        begun = time.monotonic()
        outcomes = asyncio.run(_visit(stack.coordinator, connections, at_once))
        seconds = time.monotonic() - begun
        right = client.complete(REQUEST, timeout=PATIENCE_SECONDS).token_ids == wanted
        time.sleep(HANDSHAKE_SECONDS + LONGEST_SECONDS + SETTLE_SECONDS)
        after = _settled(pid)
        rounds.append(
            {
                "round": number + 1,
                "connections": connections,
                "seconds": round(seconds, 1),
                "outcomes": dict(outcomes),
                "generate_works_after": right and client.complete(REQUEST).token_ids == wanted,
                "resident_mib_before": before["resident_mib"],
                "resident_mib_after": after["resident_mib"],
                "resident_growth": round(after["resident_mib"] / before["resident_mib"] - 1, 4),
                "open_files_before": before["open_files"],
                "open_files_after": after["open_files"],
            }
        )
    return {"at_once": at_once, "handshake_timeout_seconds": HANDSHAKE_SECONDS, "rounds": rounds}


async def _visit(address: str, connections: int, at_once: int) -> Counter[str]:
    host, _, port = address.rpartition(":")
    outcomes: Counter[str] = Counter()
    room = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        async with room:
            kind = KINDS[number % len(KINDS)]
            outcomes[f"{kind}: {await _come_and_go(host, int(port), kind)}"] += 1

    await asyncio.gather(*(one(number) for number in range(connections)))
    return outcomes


async def _come_and_go(host: str, port: int, kind: str) -> str:
    """How one connection ended."""
    try:
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), PATIENCE_SECONDS)
    except (OSError, TimeoutError) as error:
        return type(error).__name__
    try:
        if kind == "garbage":
            writer.write(secrets.token_bytes(1 + secrets.randbelow(512)))
        elif kind == "TLS hello":
            writer.write(_hello())
        if kind == "nothing":
            return "dropped"
        with suppress(OSError):
            await asyncio.wait_for(reader.read(1), PATIENCE_SECONDS)
        return "answered, dropped" if kind == "TLS hello" else "closed by the server"
    except TimeoutError:
        return "still open"
    finally:
        writer.transport.abort()


def _hello() -> bytes:
    """The first message of a TLS handshake."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2"])
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def _settled(pid: int) -> dict[str, Any]:
    """Resident memory once it has stopped changing, at most `SETTLE_SECONDS` later."""
    sizes = [_resident(pid)]
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(1.0)
        sizes.append(_resident(pid))
        if len(sizes) > 3 and len(set(sizes[-3:])) == 1:
            break
    return {"resident_mib": round(sizes[-1] / 1024, 1), "open_files": len(list(Path(f"/proc/{pid}/fd").iterdir()))}


def _resident(pid: int) -> int:
    """KiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


def _protection(folder: Path) -> Protection:
    """A certificate for this machine that signs itself, and a token."""
    cert, key, tokens = folder / "cert.pem", folder / "key.pem", folder / "tokens"
    command: list[str | Path] = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *(
            "-keyout",
            key,
            "-out",
            cert,
            "-days",
            "1",
            "-subj",
            "/CN=coordinator",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ),
    ]
    subprocess.run(command, check=True, capture_output=True)
    tokens.touch(mode=0o600)
    tokens.write_text(f"bench:{secrets.token_hex(32)}\n", encoding="ascii")
    return Protection(token_file=str(tokens), cert=str(cert), key=str(key), ca=str(cert))


if __name__ == "__main__":
    main()
