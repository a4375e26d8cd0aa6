"""How every benchmark keeps its figures: one JSON file, with the command, the machine and the commit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from minedraft.cli.bench.machine import machine

RESULTS = Path(__file__).parent / "results"


def record(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Write benchmarks/results/NAME.json; what was written."""
    report = {"command": _command(), "machine": machine(), "commit": _commit(), **fields}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def _command() -> str:
    return " ".join(["python -m", f"benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])


def _commit() -> str:
    """The commit that was measured, with a + where files had changed since; "" outside of a clone."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")
