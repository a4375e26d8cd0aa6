"""python -m minedraft.engine.parallel_worker STATION: a rank of a tensor-parallel model, other than rank 0.

Rank 0 starts it and writes orders to its stdin. A thread of its own reads them, so that the end of rank 0, which closes
the pipe, ends this process at once, in whatever pass it is.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import numpy as np
import structlog
import torch

from minedraft.engine import memory
from minedraft.engine.station import FAILED, HERE, READY, Station
from minedraft.errors import MinedraftError, ProtocolError, SetupError
from minedraft.model import process_group
from minedraft.model.loader import load, locate
from minedraft.model.orders import LARGEST, Order, decode
from minedraft.model.parallel import FollowerModel
from minedraft.telemetry import logs

STDIN: Final = 0
WORD: Final = 8  # bytes of a number
ADVICE: Final = "lower --memory-fraction, --kv-cache-mib or --num-blocks, or end other processes on the device"


def main() -> int:
    """Serve until rank 0 is gone. Returns the exit code of a failure: 2 for one of setting up, else 1."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # rank 0 decides when to end
    try:
        station = Station.of_argument(sys.argv[1])
        orders: SimpleQueue[Order | MinedraftError] = SimpleQueue()
        threading.Thread(target=_listen, args=(orders,), name="orders", daemon=True).start()
        logs.configure(f"rank {station.rank}", station.log_level, station.log_format)
        _serve(station, orders)
    except SetupError as error:
        _say(f"{FAILED}{error}")
        return 2
    except Exception as error:  # whatever it is, this rank is out of step: rank 0 is told why, and ends
        structlog.get_logger().exception("this rank failed")
        _say(f"{FAILED}{' '.join(str(error).split()) or type(error).__name__}")
    return 1


def _serve(station: Station, orders: SimpleQueue[Order | MinedraftError]) -> None:
    if station.threads:
        torch.set_num_threads(station.threads)
    device = torch.device(station.device)
    _say(HERE)
    store = process_group.find_store(station.port, station.ranks)
    process_group.join(store, station.rank, station.ranks, device, station.timeout_seconds)
    model = FollowerModel(
        load(Path(station.model), dtype=station.dtype, device=device, ranks=station.ranks),
        ranks=station.ranks,
        model_id=locate(Path(station.model)).model_id,
        max_len=station.max_len,
    )
    if model.device != device:
        raise SetupError(f"--tensor-parallel: rank {station.rank} was loaded to {model.device} instead of {device}")
    _say(READY)
    while True:
        order = orders.get()
        if isinstance(order, MinedraftError):
            raise order
        try:
            model.obey(order, lambda: memory.device_memory(device))
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
            raise SetupError(memory.describe(error, "doing its part", device, ADVICE)) from error


def _listen(orders: SimpleQueue[Order | MinedraftError]) -> None:
    """Read orders until the pipe ends, then end the process."""
    while (head := _read(WORD)) is not None:
        count = int.from_bytes(head, "little")
        try:
            if count >= LARGEST:
                raise ProtocolError(f"an order of {count} numbers cannot be")
            body = _read(count * WORD)
            if body is not None:
                orders.put(decode(np.frombuffer(body, dtype="<i8").astype(np.int64, copy=False)))
        except ProtocolError as error:
            orders.put(error)
    os._exit(0)


def _read(nbytes: int) -> bytearray | None:
    """That many bytes of stdin; None when it ends before."""
    data = bytearray(nbytes)
    view = memoryview(data)
    while view:
        count = os.readv(STDIN, [view])
        if count == 0:
            return None
        view = view[count:]
    return data


def _say(line: str) -> None:
    """Tell rank 0, which may be gone."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except OSError:
        os._exit(1)


if __name__ == "__main__":
    sys.exit(main())
