"""The services on this machine as processes: for `up`, `bench`, `demo`, and for tests that kill services.

with Stack(StackOptions(target="demo")) as stack:
    with Client(stack.coordinator) as client: ...
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from minedraft.cli.access import NO_PROTECTION, Protection, called
from minedraft.cli.demo_model import DEMO, draft_path, model_path
from minedraft.cli.service import Log, ServiceProcess
from minedraft.client import NO_TLS
from minedraft.config import AUTO
from minedraft.errors import PeerUnavailable, SetupError
from minedraft.generation import ServerInfo

ANY_PORT: Final = "127.0.0.1:0"
NONE: Final = "none"
NGRAM: Final = "ngram"
POLL_SECONDS: Final = 0.25
WHOLE_GPU: Final = "0.9"
VERIFIER_PART: Final = "0.7"
DRAFTER_PART: Final = "0.2"
EXTRA_SECONDS: Final = 2.0  # beyond its grace period before a service is killed


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What the three services are to run. Flags for one service alone go into its `..._flags`."""

    target: str = ""  # a folder, a .gguf file or "demo"; may be empty with `simulate`
    draft: str = AUTO  # the same, or "ngram", or "none" for no drafter at all; "auto": demo for demo, else ngram
    lanes: int | str = AUTO  # or "auto"
    draft_tokens: int | str = AUTO  # K, or "auto"
    lane_size: int = 16
    listen: str = ANY_PORT  # the coordinator's address; the model services take free ports of this machine
    http: str = ""  # the HTTP door's address; "" for no door
    protection: Protection = NO_PROTECTION  # of the coordinator; the model services listen on loopback
    simulate: str = ""
    threads_verifier: int = 0  # 0: see `threads_by_default`
    threads_drafter: int = 0
    dtype: str = "auto"  # of the target
    draft_dtype: str = "auto"  # of the draft model; whatever it is, the output is the target's
    device: str = "auto"
    draft_law: str = "top_m"  # of drafts of sampled requests
    channel: str = "auto"  # that dense laws take to the verifier
    max_len: int = 0  # 0: the model's own
    self_check: bool = True
    log_level: str = "info"
    grace_seconds: float = 2.0
    ready_seconds: float = 300.0
    restart: bool = True  # start a crashed model service again
    verifier_flags: tuple[str, ...] = ()
    drafter_flags: tuple[str, ...] = ()
    coordinator_flags: tuple[str, ...] = ()
    http_flags: tuple[str, ...] = ()


def threads_by_default(options: StackOptions) -> int:
    """CPU threads of each model service.

    All cores where one service is at work at a time, as with one lane; half of them where two lanes keep both at work.
    With `auto` all: on shared cores one lane with all of them is faster than two with half each.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    by_turns = str(options.lanes) in {AUTO, "1"} or resolved_draft(options) in {NONE, NGRAM}
    return cores if by_turns else max(1, cores // 2)


def silent(service: str, line: str) -> None:
    """A log that keeps nothing. Reasons of failed starts are told all the same."""


class Stack:
    """Starts the services, waits until they serve, and leaves none behind: see `minedraft.cli.tether`.

    For one thread; the attributes `verifier_process`, `drafter_process`, `coordinator_process` and `http_process` may
    be read by any.
    """

    def __init__(self, options: StackOptions, *, log: Log = silent) -> None:
        """`log` takes the services' log lines. Raises SetupError for options that no service could start with."""
        self._options = options
        verifier, drafter = _verifier_flags(options), _drafter_flags(options)
        restart = options.restart
        self.verifier_process = ServiceProcess(
            "verifier", "verifier_service", verifier, listen=ANY_PORT, log=log, restart=restart
        )
        self.drafter_process: ServiceProcess | None = None
        if drafter:
            self.drafter_process = ServiceProcess(
                "drafter", "drafter_service", drafter, listen=ANY_PORT, log=log, restart=restart
            )
        self.coordinator_process: ServiceProcess | None = None
        self.http_process: ServiceProcess | None = None
        self._log = log

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def coordinator(self) -> str:
        """The address that clients call; empty before `start`."""
        return self.coordinator_process.address if self.coordinator_process else ""

    @property
    def verifier(self) -> str:
        return self.verifier_process.address

    @property
    def drafter(self) -> str:
        """Empty without a drafter."""
        return self.drafter_process.address if self.drafter_process else ""

    @property
    def http(self) -> str:
        """Empty without a door."""
        return self.http_process.address if self.http_process else ""

    @property
    def http_scheme(self) -> str:
        """What the door speaks: https where its flags name a certificate."""
        return "https" if any(flag.startswith("--tls-cert") for flag in self._options.http_flags) else "http"

    @property
    def restarts(self) -> int:
        """How often a model service crashed and was started again."""
        return sum(process.restarts for process in (self.verifier_process, self.drafter_process) if process)

    @property
    def addresses(self) -> dict[str, str | None]:
        """The addresses by service; None for a drafter that is not wanted, and no `http` without a door."""
        services = {"coordinator": self.coordinator, "drafter": self.drafter or None, "verifier": self.verifier}
        return services | ({"http": self.http} if self.http else {})

    def start(self, progress: Callable[[str], None] = lambda _: None) -> ServerInfo:
        """Start all services; return once requests are served with the drafter's help.

        `progress` is told in a few words what is being waited for. A refused drafter (another tokenizer) is not waited
        for. Raises SetupError with the words of the service that could not start. Call `stop` in any case.
        """
        _check_free("--listen", self._options.listen)
        self._options.protection.access()
        if self._options.http:
            _check_free("--http", self._options.http)
        deadline = time.monotonic() + self._options.ready_seconds
        models = [process for process in (self.verifier_process, self.drafter_process) if process]
        for process in models:
            process.start()
        for process in models:
            progress(f"the {process.name} is loading its model")
            process.wait_announced(deadline - time.monotonic())
        self.coordinator_process = ServiceProcess(
            "coordinator", "coordinator", self._coordinator_flags(), listen=self._options.listen, log=self._log,
            restart=False,
        )  # fmt: skip
        progress("the coordinator is starting")
        self.coordinator_process.start()
        self.coordinator_process.wait_announced(deadline - time.monotonic())
        progress("the services are connecting")
        info = self._wait_ready(self.coordinator_process, deadline)
        if self._options.channel != AUTO and info.drafter.refusal:
            raise SetupError(info.drafter.refusal)
        if self._options.http:
            progress("the HTTP door is starting")
            self.http_process = _door(self._options, self.coordinator, self._log)
            self.http_process.start()
            self.http_process.wait_announced(deadline - time.monotonic())
        return info

    def wait_ended(self, timeout: float) -> bool:
        """Whether the coordinator has ended by itself, waiting at most `timeout` seconds for that."""
        return self.coordinator_process is None or self.coordinator_process.wait_ended(timeout)

    def stop(self) -> None:
        """End all services from the front, so that running answers may use those behind for their last time."""
        models = [self.verifier_process, self.drafter_process]
        for group in ([self.http_process], [self.coordinator_process], models):
            _end([process for process in group if process and process.pid], self._options.grace_seconds)

    def kill(self) -> None:
        """End all services at once."""
        for process in (self.http_process, self.coordinator_process, self.verifier_process, self.drafter_process):
            if process and process.pid:
                process.kill()

    def _wait_ready(self, coordinator: ServiceProcess, deadline: float) -> ServerInfo:
        with self._options.protection.client(coordinator.address) as client:
            while True:
                if coordinator.ended:
                    coordinator.wait_announced(0)
                    raise SetupError("the coordinator ended before it was ready")
                try:
                    return client.wait_ready(POLL_SECONDS, drafter=True)
                except PeerUnavailable as error:
                    if time.monotonic() > deadline or NO_TLS in str(error):  # waiting makes no certificate right
                        raise SetupError(str(error)) from None

    def _coordinator_flags(self) -> list[str]:
        options = self._options
        return [
            *("--verifier", self.verifier),
            *("--drafter", self.drafter or NONE),
            *("--lanes", str(options.lanes)),
            *("--lane-size", str(options.lane_size)),
            *("--draft-tokens", str(options.draft_tokens)),
            *("--channel", options.channel),
            *options.protection.flags(),
            *_common_flags(options),
            *options.coordinator_flags,
        ]


def _common_flags(options: StackOptions) -> list[str]:
    return ["--log-level", options.log_level, "--grace-seconds", f"{options.grace_seconds:g}"]


def _engine_flags(options: StackOptions, threads: int, dtype: str) -> list[str]:
    return [
        *("--threads", str(threads or threads_by_default(options))),
        *("--dtype", dtype),
        *("--device", options.device),
        *("--max-len", str(options.max_len)),
        *(() if options.self_check else ("--no-self-check",)),
        *(("--simulate", options.simulate) if options.simulate else ()),
        *_common_flags(options),
    ]


def _verifier_flags(options: StackOptions) -> list[str]:
    if not options.target and not options.simulate:
        raise SetupError("--target: name a model's folder, a .gguf file or `demo`, or give --simulate")
    model = ["--model", model_path(options.target)] if options.target else []
    # Both services may find themselves on one GPU: each is told its part of the memory.
    fraction = WHOLE_GPU if options.draft in {NONE, NGRAM} else VERIFIER_PART
    engine = _engine_flags(options, options.threads_verifier, options.dtype)
    return [*model, *("--memory-fraction", fraction), *engine, *options.verifier_flags]


def resolved_draft(options: StackOptions) -> str:
    """What `draft` means: a path, "demo", "ngram" or "none"."""
    if options.draft != AUTO:
        return options.draft
    return DEMO if options.target == DEMO and not options.simulate else NGRAM


def _drafter_flags(options: StackOptions) -> list[str] | None:
    """None: no drafter."""
    if options.draft == NONE:
        return None
    draft = resolved_draft(options)
    model = draft if draft == NGRAM else draft_path(draft, options.target)
    return [
        "--model",
        model,
        *("--draft-law", options.draft_law),
        *("--memory-fraction", DRAFTER_PART),
        *_engine_flags(options, options.threads_drafter, options.draft_dtype),
        *options.drafter_flags,
    ]


def _door(options: StackOptions, coordinator: str, log: Log) -> ServiceProcess:
    """The HTTP door, told where the target's tokenizer is if the target has one in its folder."""
    folder = Path(model_path(options.target)) if options.target else None
    tokenizer = ["--tokenizer", str(folder)] if folder and (folder / "tokenizer.json").is_file() else []
    to_coordinator = ["--coordinator", called(coordinator), *options.protection.door_flags()]
    flags = [*to_coordinator, *tokenizer, *_common_flags(options), *options.http_flags]
    return ServiceProcess("http", "minedraft.http", flags, listen=options.http, log=log)


def _check_free(flag: str, listen: str) -> None:
    """Fail at once, not after the models are loaded, when the address is taken. Raises SetupError."""
    host, _, port = listen.rpartition(":")
    if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
        raise SetupError(f"{flag}: {listen!r} is not HOST:PORT")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host.strip("[]"), int(port)), family=family).close()
    except OSError as error:
        raise SetupError(
            f"cannot listen on {listen} ({error.strerror}): stop what uses the port, or choose another by {flag}"
        ) from None


def _end(processes: Sequence[ServiceProcess], grace_seconds: float) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + grace_seconds + EXTRA_SECONDS
    for process in processes:
        if not process.wait_ended(max(0.0, deadline - time.monotonic())):
            process.kill()
            process.wait_ended(EXTRA_SECONDS)
