"""`minedraft up`: the three services on this machine."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from itertools import zip_longest
from types import FrameType
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from minedraft.cli import models
from minedraft.cli.access import Protection
from minedraft.cli.display import LogLines, notes, write_json
from minedraft.cli.stack import Stack, StackOptions
from minedraft.cli.stack_options import (
    Channel,
    CoordinatorFlags,
    Device,
    Draft,
    DraftDType,
    DrafterFlags,
    DraftLaw,
    DraftTokens,
    DType,
    Http,
    HttpFlags,
    Lanes,
    LaneSize,
    MaxLen,
    OwnCa,
    OwnCert,
    OwnKey,
    OwnServerName,
    ReadySeconds,
    SelfCheck,
    ServerCert,
    ServerClientCa,
    ServerKey,
    ServerTokenFile,
    Simulate,
    Target,
    ThreadsDrafter,
    ThreadsVerifier,
    VerifierFlags,
    split,
)
from minedraft.config import AUTO
from minedraft.errors import InternalError
from minedraft.generation import PeerInfo, ServerInfo

WAKE_SECONDS: Final = 3600.0
HTTP: Final = "--http"
USUAL_HTTP: Final = "127.0.0.1:8000"


class UpCommand(TyperCommand):
    """Lets --http stand alone, for its usual address."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, with_usual_http(args))


def with_usual_http(args: Sequence[str]) -> list[str]:
    """The arguments with an address after a --http that has none."""
    complete: list[str] = []
    for arg, after in zip_longest(args, args[1:], fillvalue="-"):
        complete += [arg, USUAL_HTTP] if arg == HTTP and after.startswith("-") else [arg]
    return complete


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived. Like KeyboardInterrupt, for the way out of whatever is being done."""


def up(
    target: Target = "demo",
    draft: Draft = "auto",
    lanes: Lanes = AUTO,
    draft_tokens: DraftTokens = AUTO,
    lane_size: LaneSize = 16,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="address that clients call")] = "127.0.0.1:50050",
    token_file: ServerTokenFile = "",
    tls_cert: ServerCert = "",
    tls_key: ServerKey = "",
    tls_client_ca: ServerClientCa = "",
    tls_ca: OwnCa = "",
    tls_client_cert: OwnCert = "",
    tls_client_key: OwnKey = "",
    tls_server_name: OwnServerName = "",
    http: Http = "",
    simulate: Simulate = "",
    dtype: DType = "auto",
    draft_dtype: DraftDType = "auto",
    device: Device = "auto",
    draft_law: DraftLaw = "top_m",
    channel: Channel = "auto",
    max_len: MaxLen = 0,
    self_check: SelfCheck = True,
    threads_verifier: ThreadsVerifier = 0,
    threads_drafter: ThreadsDrafter = 0,
    verifier_flags: VerifierFlags = "",
    drafter_flags: DrafterFlags = "",
    coordinator_flags: CoordinatorFlags = "",
    http_flags: HttpFlags = "",
    log_level: Annotated[str, typer.Option(help="debug, info, warning or error")] = "info",
    grace_seconds: Annotated[float, typer.Option(min=0, help="time for running answers after Ctrl-C or SIGTERM")] = 5.0,
    ready_seconds: ReadySeconds = 300.0,
    json_ready: Annotated[
        bool, typer.Option("--json-ready", help="print one line of JSON with the addresses when all serve")
    ] = False,
) -> None:
    """Start a verifier, a drafter and a coordinator; their logs go to stderr. Ctrl-C or SIGTERM ends them.

    A model service or HTTP door that crashes is started again. The model services take free ports: see --json-ready.

    Example: minedraft up --target demo --draft ngram
    """
    protection = Protection(
        token_file, tls_cert, tls_key, tls_client_ca, tls_ca, tls_client_cert, tls_client_key, tls_server_name
    )
    options = StackOptions(
        protection=protection,
        target="" if simulate else target, draft=draft, lanes=lanes, draft_tokens=draft_tokens, lane_size=lane_size,
        listen=listen, http=http, simulate=simulate, threads_verifier=threads_verifier, threads_drafter=threads_drafter,
        dtype=dtype, draft_dtype=draft_dtype, device=device, max_len=max_len, self_check=self_check,
        draft_law=draft_law, channel=channel,
        log_level=log_level,
        grace_seconds=grace_seconds, ready_seconds=ready_seconds,
        verifier_flags=split("--verifier-flags", verifier_flags),
        drafter_flags=split("--drafter-flags", drafter_flags),
        coordinator_flags=split("--coordinator-flags", coordinator_flags),
        http_flags=split("--http-flags", http_flags),
    )  # fmt: skip
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _raise_terminated)
    try:
        models.ensure(options.target, options.draft)
        _serve(options, json_ready)
    except Terminated:
        notes.print("ended by a signal", style="dim")


def _serve(options: StackOptions, json_ready: bool) -> None:
    stack = Stack(options, log=LogLines())
    try:
        info = stack.start()
        if json_ready:
            write_json(stack.addresses)
        _tell_ready(stack, info)
        while not stack.wait_ended(WAKE_SECONDS):
            pass
        raise InternalError("the coordinator has ended; its last log lines say why")
    finally:
        notes.print("stopping", style="dim")
        stack.stop()


def _tell_ready(stack: Stack, info: ServerInfo) -> None:
    target = info.target.model_id if info.target else "?"
    notes.print(f"ready: {target} at {stack.coordinator}, {describe_choice(info)}")
    if stack.http:
        notes.print(f"OpenAI's API: {stack.http_scheme}://{stack.http}/v1")
    if info.drafter.address:
        notes.print(f"drafter: {describe_drafter(info.drafter)}")


def describe_choice(info: ServerInfo) -> str:
    """Lanes and K in a few words: what was set, or that they are chosen."""
    choice, limits = info.choice, info.limits
    lanes = f"lanes chosen, {limits.lanes} at most" if choice.auto_lanes else f"{limits.lanes} lanes"
    drafts = f"K chosen, {limits.draft_tokens} at most" if choice.auto_draft_tokens else f"K={limits.draft_tokens}"
    return f"{lanes}, {drafts}"


def describe_drafter(drafter: PeerInfo) -> str:
    """The drafter in a few words, or why it is not used."""
    if drafter.refusal:
        return f"not used: {drafter.refusal}"
    if drafter.model is None:
        return "not connected"
    return f"{drafter.model.model_id}, dense laws over {drafter.channel}" if drafter.channel else drafter.model.model_id


def _raise_terminated(number: int, frame: FrameType | None) -> None:
    raise Terminated
