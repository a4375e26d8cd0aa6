"""`minedraft bench`: how fast a server, or a stack of its own, answers a given load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from minedraft.cli import models
from minedraft.cli.access import Access
from minedraft.cli.bench import load, prompts
from minedraft.cli.bench.load import Load, Trace
from minedraft.cli.bench.machine import machine
from minedraft.cli.bench.report import report
from minedraft.cli.bench.table import table
from minedraft.cli.display import LogLines, notes, status, write_json
from minedraft.cli.options import (
    AsJson,
    Raw,
    Seed,
    Temperature,
    TlsCa,
    TlsClientCert,
    TlsClientKey,
    TlsServerName,
    TokenFile,
    TopK,
    TopP,
    access_of,
    prompt_of,
    sampling_of,
)
from minedraft.cli.stack import NGRAM, Stack, StackOptions, threads_by_default
from minedraft.cli.stack_options import (
    Channel,
    CoordinatorFlags,
    Draft,
    DraftDType,
    DrafterFlags,
    DraftLaw,
    DraftTokens,
    DType,
    Lanes,
    LaneSize,
    ReadySeconds,
    SelfCheck,
    Simulate,
    Target,
    ThreadsDrafter,
    ThreadsVerifier,
    VerifierFlags,
    split,
)
from minedraft.config import AUTO
from minedraft.errors import SetupError
from minedraft.generation import GenerateRequest, ServerInfo

LOAD: Final = "Load"
ROUNDS_OF_REQUESTS: Final = 4  # requests for each one in flight, unless told


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What is sent."""

    concurrency: int
    rate: float  # 0: a closed loop
    requests: int
    warmup: int
    prompts: Path | None
    raw: bool
    max_new_tokens: int
    temperature: float
    top_p: float
    top_k: int
    seed: int | None
    ignore_eos: bool

    def texts(self) -> list[str]:
        """The prompts of the warm-up and of the measured requests, in order."""
        count = self.warmup + self.requests
        return (
            prompts.synthetic(count) if self.prompts is None else prompts.cycled(prompts.from_file(self.prompts), count)
        )

    def build(self) -> list[GenerateRequest]:
        """Request i of a seeded bench has the seed `seed + i`."""
        sampling = sampling_of(
            max_new_tokens=self.max_new_tokens, temperature=self.temperature, top_p=self.top_p, top_k=self.top_k,
            ignore_eos=self.ignore_eos,
        )  # fmt: skip
        return [
            GenerateRequest(
                prompt_of(text, raw=self.raw),
                sampling if self.seed is None else replace(sampling, seed=self.seed + number),
            )
            for number, text in enumerate(self.texts())
        ]

    def settings(self) -> dict[str, Any]:
        return {
            "concurrency": None if self.rate else self.concurrency,
            "rate": self.rate or None,
            "requests": self.requests,
            "warmup": self.warmup,
            "prompts": str(self.prompts) if self.prompts else "synthetic",
            "raw": self.raw,
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "seed": self.seed,
            "ignore_eos": self.ignore_eos,
        }


def bench(
    as_json: AsJson = False,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="measure this server instead of a stack of its own")
    ] = None,
    token_file: TokenFile = None,
    tls_ca: TlsCa = None,
    tls_client_cert: TlsClientCert = None,
    tls_client_key: TlsClientKey = None,
    tls_server_name: TlsServerName = None,
    concurrency: Annotated[int, typer.Option(min=1, help="requests in flight", rich_help_panel=LOAD)] = 16,
    rate: Annotated[
        float,
        typer.Option(
            min=0.0, help="requests that arrive a second, at random; 0: --concurrency at a time", rich_help_panel=LOAD
        ),
    ] = 0.0,
    requests: Annotated[
        int | None, typer.Option(min=1, help="requests in all; default: 4 for each in flight", rich_help_panel=LOAD)
    ] = None,
    warmup: Annotated[int, typer.Option(min=0, help="requests before the measured ones", rich_help_panel=LOAD)] = 0,
    prompts_file: Annotated[
        Path | None,
        typer.Option(
            "--prompts", metavar="FILE.jsonl", help='one {"prompt": ...} a line; default: made up', rich_help_panel=LOAD
        ),
    ] = None,
    raw: Raw = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="tokens an answer", rich_help_panel=LOAD)] = 128,
    ignore_eos: Annotated[
        bool, typer.Option(help="go on to max-new-tokens, so that all answers are as long", rich_help_panel=LOAD)
    ] = False,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    target: Target = "demo",
    draft: Draft = "auto",
    simulate: Simulate = "",
    lanes: Lanes = AUTO,
    draft_tokens: DraftTokens = AUTO,
    lane_size: LaneSize = 16,
    dtype: DType = "auto",
    draft_dtype: DraftDType = "auto",
    draft_law: DraftLaw = "top_m",
    channel: Channel = "auto",
    self_check: SelfCheck = True,
    threads_verifier: ThreadsVerifier = 0,
    threads_drafter: ThreadsDrafter = 0,
    verifier_flags: VerifierFlags = "",
    drafter_flags: DrafterFlags = "",
    coordinator_flags: CoordinatorFlags = "",
    devices: Annotated[
        int, typer.Option(min=0, help="devices that the models use, for figures per device; 0: one for each model")
    ] = 0,
    ready_seconds: ReadySeconds = 300.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="show the services' logs on stderr")] = False,
) -> None:
    """Keep a number of requests in flight, or let them arrive at random (--rate), and measure.

    Starts services of its own unless given --address.

    Tokens a second are those of all answers over the time from the first request sent to the last one ended; the steady
    part leaves out the ramps at both ends. docs/cli.md explains every field of --json.

    Example: minedraft bench --simulate drafter=5ms,verifier=25ms,accept=0.8 --concurrency 16
    """
    what = LoadOptions(
        concurrency=concurrency, rate=rate, requests=requests or ROUNDS_OF_REQUESTS * concurrency, warmup=warmup,
        prompts=prompts_file, raw=raw, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k,
        seed=seed, ignore_eos=ignore_eos,
    )  # fmt: skip
    built = what.build()  # before anything is started, so that mistakes are told at once
    options = StackOptions(
        target="" if simulate else target, draft=draft, lanes=lanes, draft_tokens=draft_tokens, lane_size=lane_size,
        simulate=simulate, threads_verifier=threads_verifier, threads_drafter=threads_drafter, dtype=dtype,
        draft_dtype=draft_dtype, draft_law=draft_law, channel=channel,
        self_check=self_check, ready_seconds=ready_seconds, log_level="info" if verbose else "warning",
        verifier_flags=split("--verifier-flags", verifier_flags),
        drafter_flags=split("--drafter-flags", drafter_flags),
        coordinator_flags=split("--coordinator-flags", coordinator_flags),
    )  # fmt: skip
    if address and simulate:
        raise SetupError("--address and --simulate: give one of them, a running server or a stack of its own")
    access = Access()
    if address:
        access = access_of(token_file, tls_ca, tls_client_cert, tls_client_key, tls_server_name)
    with nullcontext(address) if address else _own_stack(options, verbose) as where:
        measured = uvloop.run(_measure(where, access, built, what))
    used = devices or 1 + _has_draft_model(measured.after.info)
    fields = {
        "settings": {
            "address": address,
            "machine": machine(),
            "devices": used,
            **_stack_settings(None if address else options),
            **_server_settings(measured.after.info),
            **what.settings(),
        },
        **report(measured, used),
    }
    if as_json:
        write_json(fields)
    else:
        Console().print(table(fields))
    for problem, count in fields["errors"].items():
        notes.print(f"{count} failed: {problem}", style="red")
    if not fields["completed"]:
        raise typer.Exit(1)


@contextmanager
def _own_stack(options: StackOptions, verbose: bool) -> Iterator[str]:
    models.ensure(options.target, options.draft)
    stack = Stack(options, log=LogLines()) if verbose else Stack(options)
    try:
        with status("starting the services") as waiting:
            info = stack.start(waiting)
        if info.drafter.refusal:
            notes.print(f"the drafter is not used: {info.drafter.refusal}", style="red")
        yield stack.coordinator
        if stack.restarts:
            notes.print(f"a model service crashed {stack.restarts} times: the figures include its absence", style="red")
    finally:
        stack.stop()


async def _measure(address: str, access: Access, requests: list[GenerateRequest], what: LoadOptions) -> Load:
    async with access.async_client(address) as client:
        await client.wait_ready(30.0)
        await load.warm_up(client, requests[: what.warmup], what.concurrency)
        with _progress(what.requests) as step:
            counted = requests[what.warmup :]
            if what.rate:
                return await load.arrive(client, counted, load.poisson(len(counted), what.rate, what.seed or 0), step)
            return await load.run(client, counted, what.concurrency, step)


@contextmanager
def _progress(requests: int) -> Iterator[Callable[[Trace], None]]:
    """A bar on stderr when that is a terminal."""
    columns = (
        TextColumn("requests"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[tokens]} tokens"),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=notes, transient=True, disable=not notes.is_terminal) as bar:
        task = bar.add_task("", total=requests, tokens=0)
        tokens = 0

        def step(trace: Trace) -> None:
            nonlocal tokens
            tokens += trace.tokens
            bar.update(task, advance=1, tokens=tokens)

        yield step


def _stack_settings(options: StackOptions | None) -> dict[str, Any]:
    """What is known of the services' flags: all for a stack of our own, nothing for a running server."""
    if options is None:
        return {}
    return {
        "target": options.target or None,
        "draft": options.draft,
        "simulate": options.simulate or None,
        "dtype": options.dtype,
        "draft_law": options.draft_law,
        "threads_verifier": options.threads_verifier or threads_by_default(options),
        "threads_drafter": options.threads_drafter or threads_by_default(options),
    }


def _has_draft_model(info: ServerInfo) -> bool:
    """Whether a drafter is used that computes: prompt lookup needs no device."""
    drafter = info.drafter.model if info.drafter.connected else None
    return drafter is not None and drafter.architecture != NGRAM


def _server_settings(info: ServerInfo) -> dict[str, Any]:
    """What the server says of itself."""
    drafter = info.drafter.model if info.drafter.connected else None
    return {
        "version": info.version,
        "target_model": info.target.model_id if info.target else None,
        "drafter_model": drafter.model_id if drafter else None,
        "lanes": AUTO if info.choice.auto_lanes else info.limits.lanes,
        "lane_size": info.limits.lane_size,
        "draft_tokens": AUTO if info.choice.auto_draft_tokens else info.limits.draft_tokens,
        "channel": info.drafter.channel or None,
    }
