"""Generate the Python stubs of protos/ into the folder given as the only argument's package `v1`.

Committed stubs carry the version floor of their generator, so `grpcio-tools` is pinned to a deliberately old release in
the dev extra. `tests/unit/test_stubs.py` runs this into a temporary folder and compares.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent


def generate(package: Path) -> None:
    """Write `package`/v1/*_pb2.py, *_pb2.pyi and *_pb2_grpc.py."""
    protos = sorted((ROOT / "protos/minedraft/v1").glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = [f"--{kind}={folder}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
        if protoc.main(["protoc", f"-I{ROOT / 'protos'}", *out, *map(str, protos)]) != 0:
            raise SystemExit("protoc failed; its message is above")
        target = package / "v1"
        target.mkdir(parents=True, exist_ok=True)
        for made in (Path(folder) / "minedraft/v1").iterdir():
            if not (made.name.endswith("_pb2_grpc.py") and made.name.startswith("common")):
                shutil.copy(made, target / made.name)


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
