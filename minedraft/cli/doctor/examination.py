"""All checks in order. A check that fails in itself becomes a row, and the next one is done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from minedraft.cli.doctor import channels, machine, models
from minedraft.cli.doctor.finding import Finding, Scope, failed, not_here
from minedraft.cli.doctor.helper import Helper

Progress = Callable[[str], None]
NO_ENGINE: Final = "not run: the engine cannot be imported"
TITLES: Final = {  # of the checks that need the engine
    "gpus": "GPUs",
    "device": "--device",
    "int8": "8-bit operators of the CPU",
    "kernels": "CPU kernels",
    "attention.sdpa": "attention sdpa",
    "attention.flash_attn": "attention flash_attn",
}
MEND_ENGINE: Final = "mend the row `engine imports` first"


def examine(scope: Scope, progress: Progress) -> Iterator[Finding]:
    """The findings, as they come. `progress` is told what is looked at. Ends the processes that it started."""
    progress("looking at the machine")
    yield from _machine(scope)
    target, draft, unresolved = models.resolve(scope.target, scope.draft)
    yield from unresolved
    scope = replace(scope, target=target, draft=draft)
    helper = Helper(scope)
    try:
        yield from _helped(scope, helper, progress)
    finally:
        helper.close()


def guarded(name: str, title: str, check: Callable[[], Finding | Iterable[Finding]]) -> list[Finding]:
    """What the check finds. An exception that it raises is what it found."""
    try:
        found = check()
        return [found] if isinstance(found, Finding) else list(found)
    except Exception as error:  # the point of a doctor: whatever is wrong becomes a row
        return [failed(name, title, error)]


def _machine(scope: Scope) -> Iterator[Finding]:
    checks: tuple[tuple[str, str, Callable[[], Any]], ...] = (
        ("system", "operating system", machine.system),
        ("cores", "cores", machine.cores),
        ("memory", "memory", machine.memory),
        ("python", "Python", machine.python),
        ("packages", "packages", machine.packages),
        ("container", "container", machine.container),
        ("namespaces", "namespaces", machine.namespaces),
        ("shm", "shared memory", lambda: machine.shared_memory(Path(scope.shm_dir))),
        ("limits", "limits", machine.limits),
        ("demo", "demo model", models.check_demo),
    )
    for name, title, check in checks:
        yield from guarded(name, title, check)


def _helped(scope: Scope, helper: Helper, progress: Progress) -> Iterator[Finding]:
    progress("calling over gRPC")
    yield from helper.check("grpc", "gRPC over loopback")
    if scope.address:
        progress(f"asking the server at {scope.address}")
        yield from helper.check("server", f"server at {scope.address}")
    progress("importing the engine")
    engine = helper.check("engine", "engine imports")
    yield from engine
    if not all(found.is_ok for found in engine):
        yield from (not_here(name, title, NO_ENGINE, MEND_ENGINE) for name, title in TITLES.items())
        yield from channels.not_tried(NO_ENGINE, MEND_ENGINE)
        return
    progress("looking at GPUs")
    gpus, device = (helper.check(name, TITLES[name]) for name in ("gpus", "device"))
    yield from (*gpus, *device)
    for name in ("int8", "kernels"):
        yield from helper.check(name, TITLES[name])
    if scope.target or scope.draft:
        progress("looking at the models")
        yield from helper.check("models", "models")
    progress("comparing attention")
    for name in ("attention.sdpa", "attention.flash_attn"):
        yield from helper.check(name, TITLES[name])
    helper.close()  # its memory, and on a GPU its context, are not in the way of what is measured
    yield from _channels(scope, gpus, device, progress)


def _channels(scope: Scope, gpus: list[Finding], device: list[Finding], progress: Progress) -> Iterator[Finding]:
    progress("trying the channels")
    count = next((int(found.values["count"]) for found in gpus if "count" in found.values), 0)
    place = next((str(found.values["device"]) for found in device if "device" in found.values), channels.CPU)
    pair = channels.Pair(scope.shm_dir, scope.seconds)
    try:
        yield from guarded("channel", "channels", lambda: channels.check_all(scope, place, count, pair))
    finally:
        pair.close()
