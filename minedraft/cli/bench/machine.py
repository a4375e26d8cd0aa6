"""The machine that a measurement ran on: nothing that names it or its user."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any, Final

PROCESSORS: Final = Path("/proc/cpuinfo")
TELLING: Final = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "asimd")
"""Instructions that decide how fast a CPU multiplies: names of processors do not tell."""


def machine() -> dict[str, Any]:
    """Operating system, processor, its instructions, cores, how busy it was before, and Python."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "instructions": _instructions(),
        "cores": os.cpu_count(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
    }


def _lines() -> list[str]:
    try:
        return PROCESSORS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _processor() -> str:
    """Its name where the system tells, else its architecture."""
    names = (line.partition(":")[2].strip() for line in _lines() if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _instructions() -> list[str]:
    """Those of TELLING that it has, where the system tells."""
    flags = next((line.partition(":")[2].split() for line in _lines() if line.startswith(("flags", "Features"))), [])
    return [name for name in TELLING if name in flags]
