"""The other process: joins a channel, sends or reads as it is told, one line of JSON a command. Run by the tests.

python -m tests.channel.guest shm|gloo SPEC FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from minedraft.channel.gloo import GlooSender
from minedraft.channel.shm import ShmSender
from minedraft.types import ChannelKind, ChannelSpec


def main() -> None:
    kind, spec_text, folder = sys.argv[1:]
    fields = json.loads(spec_text)
    spec = ChannelSpec(fields["channel_id"], fields["generation"], ChannelKind(kind), fields["slots"], fields["bytes"])
    sender = ShmSender(spec, Path(folder)) if kind == "shm" else GlooSender(spec, "127.0.0.1")
    for line in sys.stdin:
        command = json.loads(line)
        match command["do"]:
            case "offer":
                answer: object = sender.offer().hex()
            case "join":
                answer = sender.join(bytes.fromhex(command["offer"])).hex()
            case "send":
                slot = sender.acquire()
                if slot is None:
                    raise RuntimeError("no slot")
                sender.write(slot, torch.full((command["count"],), command["value"], dtype=torch.uint8))
                ref = sender.publish(slot, torch.uint8, (command["count"],))
                answer = [ref.slot, ref.sequence]
            case other:
                raise RuntimeError(other)
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
