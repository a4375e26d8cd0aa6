"""The models that the configuration names: whether they are there, and go together. Weights are not loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from minedraft.cli import demo_drafter, demo_model
from minedraft.cli.doctor.finding import Finding, Scope, broken, failed, not_here, ok
from minedraft.cli.stack import NGRAM, NONE
from minedraft.config import AUTO, CliSettings
from minedraft.errors import SetupError


def check_demo() -> Finding:
    """The demo model and its drafter in this person's cache."""
    folder = CliSettings().demo_folder
    mend = "`minedraft models pull demo` fetches it (93 MB)"
    if not demo_model.is_complete(folder):
        return not_here("demo", "demo model", f"not at {folder}", mend, folder=str(folder))
    if not demo_drafter.is_complete(folder):
        return not_here("demo", "demo model", "there, without its draft model", mend, folder=str(folder))
    return ok("demo", "demo model", f"at {folder}", folder=str(folder))


def resolve(target: str, draft: str) -> tuple[str, str, list[Finding]]:
    """The paths that --target and --draft mean, "" for one that means none, and why not."""
    findings: list[Finding] = []
    needs_none = draft in {"", AUTO, NGRAM, NONE}
    target_path = _path("target", target, lambda: demo_model.model_path(target) if target else "", findings)
    draft_path = _path("draft", draft, lambda: draft if needs_none else demo_model.draft_path(draft, target), findings)
    return target_path, draft_path, findings


def check_models(scope: Scope) -> list[Finding]:
    """One finding for each model that was named. Run where transformers may be imported."""
    findings = [_model("target", scope.target)] if scope.target else []
    if scope.draft in {AUTO, NGRAM, NONE}:
        findings.append(ok("draft", f"--draft {scope.draft}", "needs no model, or the demo's own"))
    elif scope.draft:
        findings.append(_model("draft", scope.draft))
    prints = [found.values.get("tokenizer") for found in findings]
    if len(findings) == 2 and all(prints) and prints[0] != prints[1]:
        problem, mend = (
            "its tokenizer is not the target's",
            "give a draft model of the target's family, or --draft ngram",
        )
        findings[1] = broken("draft", findings[1].title, problem, mend, **findings[1].values)
    return findings


def _path(name: str, given: str, resolved: Callable[[], str], findings: list[Finding]) -> str:
    try:
        return resolved()
    except SetupError as error:
        findings.append(failed(name, f"--{name} {given}", error))
        return ""


def _model(name: str, path: str) -> Finding:
    from minedraft.model.loader import locate, read_config

    title = f"--{name} {path}"
    try:
        files = locate(Path(path))
        values: dict[str, Any] = {"folder": str(files.folder), "tokenizer": _fingerprint(files.folder)}
        if files.gguf is not None:
            size = (files.folder / files.gguf).stat().st_size
            return ok(name, title, f"GGUF, {size / 1e6:.0f} MB", bytes=size, **values)
        config: Any = read_config(Path(path))
        size = sum(file.stat().st_size for file in files.folder.glob("*.safetensors"))
    except SetupError as error:
        return failed(name, title, error)
    found = f"{config.model_type}, {size / 1e6:.0f} MB of weights"
    return ok(name, title, found, architecture=config.model_type, bytes=size, **values)


def _fingerprint(folder: Path) -> str:
    """The tokenizer's fingerprint, "" where it lies within a GGUF file. Raises SetupError."""
    from minedraft.model.tokenizer import read_tokenizer

    return read_tokenizer(folder).fingerprint if (folder / "tokenizer.json").is_file() else ""
