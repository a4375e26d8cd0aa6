"""python -m minedraft.cli.tether SERVICE [FLAGS]: run a service that ends when its parent does, however that ends.

The parent keeps the write end of this process's stdin and never writes. When the parent is gone, even by kill -9, the
system closes that end, and this process takes the end of file as SIGTERM. Unlike Linux's signal on a parent's death it
works on every system, whichever thread of the parent started the process.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time
from typing import Final

STDIN: Final = 0
STDOUT: Final = 1
STDERR: Final = 2
ORPHAN_GRACE_SECONDS: Final = 3.0


def main() -> None:
    """Run the module named by the first argument as a program, in this process."""
    module, arguments = sys.argv[1], sys.argv[2:]
    threading.Thread(target=_end_with_parent, name="tether", daemon=True).start()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    while os.read(STDIN, 1024):
        pass
    # Nobody reads the logs any more: writing to the broken pipes would raise in the middle of an orderly end.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, STDOUT)
    os.dup2(nowhere, STDERR)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(ORPHAN_GRACE_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main()
