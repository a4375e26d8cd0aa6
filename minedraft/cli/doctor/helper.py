"""python -m minedraft.cli.doctor.helper: does the checks that import torch, use a GPU or call over gRPC.

The doctor itself stays out of them: what hangs is killed here, what crashes crashes here, and the table goes on.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Final

from minedraft.cli.doctor.child import Child, ChildLost, Fields, serve
from minedraft.cli.doctor.finding import Finding, Scope, broken, failed

PROCESS: Final = ("-m", "minedraft.cli.doctor.helper")
# Each is imported when it is asked for: a broken torch must not take gRPC with it.
CHECKS: Final = {
    "engine": "engine:check_engine",
    "int8": "engine:check_int8",
    "kernels": "engine:check_kernels",
    "gpus": "gpus:check_gpus",
    "device": "gpus:check_device",
    "grpc": "loopback:check_grpc",
    "server": "server:check_server",
    "models": "models:check_models",
    "attention.sdpa": "attention:check_sdpa",
    "attention.flash_attn": "attention:check_flash",
}
ENGINE_MEND: Final = "pip install 'minedraft[engine]'"


class Helper:
    """The process, started when it is needed, and anew after it was lost. For one thread."""

    def __init__(self, scope: Scope, process: tuple[str, ...] = PROCESS) -> None:
        self._scope = scope
        self._process = process
        self._child: Child | None = None

    def check(self, name: str, title: str) -> list[Finding]:
        """The findings of one of CHECKS. Whatever becomes of the process is a finding too."""
        if self._child is None:
            self._child = Child(self._process)
        try:
            fields = {name: getattr(self._scope, name) for name in self._scope.__slots__}
            answer = self._child.ask({"check": name, "title": title, "scope": fields}, self._scope.seconds)
            return [Finding.of_fields(found) for found in answer["findings"]]
        except ChildLost as error:
            self._child = None
            return [broken(name, title, str(error), "run it again; if it stays so, report it with its reason")]

    def close(self) -> None:
        """Kill the process."""
        if self._child is not None:
            self._child.close()
            self._child = None


def act(command: Fields) -> Fields:
    """One check. An exception is a finding."""
    name = str(command["check"])
    try:
        module, _, function = CHECKS[name].partition(":")
        check: Callable[[Scope], list[Finding]] = getattr(import_module(f"minedraft.cli.doctor.{module}"), function)
        findings = check(Scope(**command["scope"]))
    except Exception as error:  # the point of a doctor: whatever is wrong becomes a row
        mend = ENGINE_MEND if isinstance(error, ImportError) else ""
        findings = [failed(name, str(command["title"]), error, mend)]
    return {"findings": [found.as_fields() for found in findings]}


if __name__ == "__main__":
    serve(act)
