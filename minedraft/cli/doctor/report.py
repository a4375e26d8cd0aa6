"""The findings for programs: see docs/doctor.md for every field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import minedraft
from minedraft.cli.doctor.asked import missing
from minedraft.cli.doctor.finding import Finding


def report(findings: Iterable[Finding], asked: Sequence[str]) -> dict[str, Any]:
    """One object."""
    rows = list(findings)
    lacking = missing(asked, rows)
    return {
        "ok": not lacking,
        "version": minedraft.__version__,
        "asked": list(asked),
        "missing": lacking,
        "checks": [found.as_fields() for found in rows],
    }
