"""`minedraft trace`: when each service drafted and verified, as a Perfetto file and as a picture."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from minedraft.cli.display import notes, status, write_json
from minedraft.cli.options import (
    Address,
    AsJson,
    TlsCa,
    TlsClientCert,
    TlsClientKey,
    TlsServerName,
    TokenFile,
    access_of,
    server_address,
)
from minedraft.cli.trace.perfetto import trace_events
from minedraft.cli.trace.picture import picture
from minedraft.cli.trace.recording import Recording
from minedraft.client import Client
from minedraft.errors import SetupError
from minedraft.generation import StepKind, TimelineStep

POLL_SECONDS: Final = 0.5
ROUNDS_SHOWN: Final = 10  # verifications in a picture, so that bars can be told apart
NONE: Final = (
    "no steps: nothing was generated meanwhile, or the coordinator runs with --timeline-steps 0. Send requests while "
    "this records, for example by `minedraft bench`"
)


def trace(
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="for ui.perfetto.dev")] = Path("trace.json"),
    picture_file: Annotated[
        Path | None, typer.Option("--picture", metavar="FILE", help="a picture of some rounds, SVG")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="record for so long")] = 5.0,
    last: Annotated[bool, typer.Option("--last", help="take what the server remembers instead of waiting")] = False,
    title: Annotated[str, typer.Option(metavar="TEXT", help="above the picture")] = "",
    address: Address = None,
    token_file: TokenFile = None,
    tls_ca: TlsCa = None,
    tls_client_cert: TlsClientCert = None,
    tls_client_key: TlsClientKey = None,
    tls_server_name: TlsServerName = None,
    as_json: AsJson = False,
) -> None:
    """Record when each service drafted and verified, for which lane.

    Open the file at ui.perfetto.dev. Steps that overlap in time are what two lanes are for.

    Example: minedraft trace --seconds 5 -o trace.json --picture timeline.svg
    """
    access = access_of(token_file, tls_ca, tls_client_cert, tls_client_key, tls_server_name)
    with access.client(server_address(address)) as client, status("recording steps"):
        steps = _remembered(client) if last else _recorded(client, seconds)
    if not steps:
        notes.print(NONE)
        raise typer.Exit(1)
    recording = Recording.of(steps)
    _write(out, json.dumps(trace_events(recording)))
    if picture_file is not None:
        _write(picture_file, picture(_some_rounds(recording), title or "Which lane each service works for"))
    found = summary(recording)
    for service, shift in recording.shifts_ns.items():
        notes.print(f"the clock of {service.name} is off by {shift / 1e6:.1f} ms: taken into account")
    if as_json:
        write_json(found)
    else:
        for service, busy in found["busy"].items():
            notes.print(f"{service}: busy {busy:.1%}")
        notes.print(f"overlap {found['overlap']:.1%}; a verifier waits {found['wait_ms']:.2f} ms between two steps")
        notes.print(f"{found['steps']} steps of {found['seconds']:.2f} s in {out}")


def summary(recording: Recording) -> dict[str, Any]:
    """Shares of time, and seconds."""
    return {
        "steps": len(recording.bars),
        "seconds": (recording.end_ns - recording.begin_ns) * 1e-9,
        "busy": {service.name: round(recording.busy(service), 4) for service in recording.services},
        "overlap": round(recording.overlap(), 4),
        "wait_ms": recording.wait_ns() / 1e6,
    }


def _remembered(client: Client) -> list[TimelineStep]:
    return _pages(client, 0)


def _recorded(client: Client, seconds: float) -> list[TimelineStep]:
    """Steps whose replies come in the next `seconds`."""
    deadline = time.monotonic() + seconds
    newest = client.timeline(limit=1).newest
    steps: list[TimelineStep] = []
    while True:
        left = deadline - time.monotonic()
        time.sleep(max(0.0, min(POLL_SECONDS, left)))
        steps += _pages(client, steps[-1].number if steps else newest)
        if left <= POLL_SECONDS:
            return steps


def _pages(client: Client, after: int) -> list[TimelineStep]:
    steps: list[TimelineStep] = []
    while (page := client.timeline(steps[-1].number if steps else after)).steps:
        steps += page.steps
        if steps[-1].number >= page.newest:
            break
    return steps


def _some_rounds(recording: Recording) -> Recording:
    """From its middle, so that neither the first prompts nor the last answers are shown."""
    verified = [bar for bar in recording.bars if bar.step.kind is StepKind.VERIFY]
    if len(verified) <= ROUNDS_SHOWN:
        return recording
    first = (len(verified) - ROUNDS_SHOWN) // 2
    return recording.within(verified[first].begin_ns, verified[first + ROUNDS_SHOWN - 1].end_ns)


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror or error}") from None
