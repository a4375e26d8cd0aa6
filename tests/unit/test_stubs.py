"""The committed stubs are what the pinned generator makes of the protos."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_committed_stubs_are_current(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("stubs", ROOT / "tools/stubs.py")
    if spec is None or spec.loader is None:
        raise FileNotFoundError("tools/stubs.py")
    stubs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(stubs)
    stubs.generate(tmp_path)
    made = {path.name: path.read_text() for path in (tmp_path / "v1").iterdir()}
    committed = {path.name: path.read_text() for path in (ROOT / "minedraft/v1").glob("*_pb2*.py*")}
    assert made == committed
