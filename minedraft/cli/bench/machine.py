"""The machine that a measurement ran on: nothing that names it or its user."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, Final

PROCESSORS: Final = Path("/proc/cpuinfo")


def machine() -> dict[str, Any]:
    """Operating system, processor, cores, how busy it was before, and Python."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """Its name where the system tells, else its architecture."""
    try:
        lines = PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
