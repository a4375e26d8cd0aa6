"""What the coordinator's process takes: seconds to import, resident memory while it serves the demo pair, no torch.

    python -m benchmarks.coordinator_size

Writes benchmarks/results/coordinator_size.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.record import record
from minedraft.cli.demo_model import DEMO
from minedraft.cli.models import ensure
from minedraft.cli.stack import Stack, StackOptions
from minedraft.client import Client
from minedraft.generation import GenerateRequest, Text
from minedraft.types import SamplingParams

PROGRAM = "import coordinator.__main__, sys; print('torch' in sys.modules)"


def main() -> None:
    seconds, torches = [], set()
    for _ in range(7):
        begun = time.perf_counter()
        torches.add(subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout)
        seconds.append(time.perf_counter() - begun)
    ensure(DEMO)
    with Stack(StackOptions(target=DEMO)) as running, Client(running.coordinator) as client:
        for _ in range(3):
            client.complete(GenerateRequest(Text("One two three"), SamplingParams(max_new_tokens=32)))
        process = running.coordinator_process
        if process is None or process.pid is None:
            raise SystemExit("the coordinator has ended")
        status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii").splitlines()
    resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    fields = {
        "interpreter_start_and_import_seconds": round(statistics.median(seconds), 3),
        "resident_mib": round(resident / 1024, 1),
        "torch_imported": "True\n" in torches,
    }
    print(json.dumps(record("coordinator_size", fields), indent=1))


if __name__ == "__main__":
    main()
