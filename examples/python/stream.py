"""Stream a chat's answer, then ask twice with one seed.

python examples/python/stream.py [HOST:PORT] needs a running coordinator (`minedraft up`).
"""

from __future__ import annotations

import sys

from minedraft.client import Client
from minedraft.generation import Chat, ChatMessage, GenerateRequest
from minedraft.types import SamplingParams


def main(address: str) -> None:
    chat = Chat((ChatMessage("user", "Name three rivers and say where each of them flows."),))
    with Client(address) as client:
        for piece in client.generate(GenerateRequest(chat, SamplingParams(temperature=0, max_new_tokens=64))):
            sys.stdout.write(piece.text)
            sys.stdout.flush()
            if piece.speculation is not None:
                sys.stdout.write(f"\n\nacceptance length {piece.speculation.acceptance_length:.2f}\n")

        # A seed makes a sampled answer repeatable, whatever was drafted for it.
        seeded = GenerateRequest(chat, SamplingParams(temperature=0.8, seed=1, max_new_tokens=24))
        once, again = client.complete(seeded), client.complete(seeded)
        sys.stdout.write(f"\nthe same both times: {once.token_ids == again.token_ids}\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50050")
