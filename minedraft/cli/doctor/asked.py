"""What the configuration asks for, and which of it is missing: the doctor's exit code. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, get_args

from minedraft.cli.doctor.finding import Finding, Scope
from minedraft.config import AttentionName, ChannelName
from minedraft.errors import SetupError

AUTO: Final = "auto"
DEVICE: Final = re.compile(r"auto|cpu|cuda(:\d+)?")
ALWAYS: Final = ("engine", "grpc", "attention.sdpa")


def asked_for(scope: Scope) -> tuple[str, ...]:
    """Names of the findings that must be ok. Raises SetupError for options that mean nothing."""
    _check_words(scope)
    names = [*ALWAYS, "channel" if scope.channel == AUTO else f"channel.{scope.channel}"]
    if scope.channel == "shm":
        names.append("shm")
    if scope.device != AUTO:
        names.append("device")
    if scope.attention == "flash_attn":
        names.append("attention.flash_attn")
    names += [name for name, given in (("target", scope.target), ("draft", scope.draft)) if given]
    if scope.address:
        names += ["server", "server.drafter"]
    return tuple(names)


def missing(asked: Sequence[str], findings: Iterable[Finding]) -> list[str]:
    """Those of the names that no finding calls ok."""
    fine = {found.name for found in findings if found.is_ok}
    return [name for name in asked if name not in fine]


def _check_words(scope: Scope) -> None:
    for option, given, known in (
        ("--channel", scope.channel, get_args(ChannelName)),
        ("--attention", scope.attention, get_args(AttentionName)),
    ):
        if given not in known:
            raise SetupError(f"{option} {given} is unknown: give {', '.join(known)}")
    if not DEVICE.fullmatch(scope.device):
        raise SetupError(f"--device {scope.device} is not supported: give auto, cpu, cuda or cuda:0")
    host, _, port = scope.address.rpartition(":")
    if scope.address and not (host and port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise SetupError(f"--address: {scope.address!r} is not HOST:PORT")
