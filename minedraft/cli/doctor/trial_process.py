"""python -m minedraft.cli.doctor.trial_process FD: one end of a channel on trial. See `minedraft.channel.trial`."""

from __future__ import annotations

import socket
import sys

import torch

from minedraft.channel.trial import Wire, act
from minedraft.cli.doctor.child import serve
from minedraft.process import SWITCH_SECONDS


def main() -> None:
    """Answer commands until stdin ends. FD is this end of a socket pair."""
    sys.setswitchinterval(SWITCH_SECONDS)  # as in the services: gloo's and NCCL's threads would wait longer
    torch.set_num_threads(1)
    wire = Wire(socket.socket(fileno=int(sys.argv[1])))
    serve(lambda command: act(command, wire))


if __name__ == "__main__":
    main()
