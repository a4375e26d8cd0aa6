"""CPU threads of the model services where none are named."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from minedraft.cli.stack import StackOptions, threads_by_default

SIMULATED = StackOptions(target="", draft="", simulate="v=1")


@pytest.mark.parametrize(
    ("options", "cores", "threads"),
    [
        (replace(SIMULATED, lanes=1), 8, 8),
        (replace(SIMULATED, lanes="auto"), 8, 8),
        (replace(SIMULATED, lanes=2), 8, 4),
        (replace(SIMULATED, lanes=2), 1, 1),
        (StackOptions(target="/t", draft="ngram", lanes=2), 8, 8),
        (StackOptions(target="/t", draft="none", lanes=2), 8, 8),
        (StackOptions(target="/t", draft="/d", lanes=3), 8, 4),
    ],
)
def test_all_cores_unless_lanes_share_them(
    options: StackOptions, cores: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert threads_by_default(options) == threads
