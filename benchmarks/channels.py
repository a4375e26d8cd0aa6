"""What a 12 MB payload costs on each channel of a CPU, between two real processes. One run, in turns, medians.

    python -m benchmarks.channels [--rounds 40]

The payload is the law of 8 sequences x 5 drafts over 152,064 tokens in 16 bits: 12,165,120 bytes.

- memcpy: one copy of that size between two warm buffers, in this process. The measure for the others.
- shm: `write` and `publish` in the sending process, and `receive` in the receiving one until the tensor is in hand. The
  reference goes through a pipe, whose own time is measured beside it and told apart.
- gloo: from the call of `write` until the tensor is in hand, over loopback TCP.
- inline: the same, in chunks over two real gRPC streams, as they go through a coordinator.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import grpc
import torch

from benchmarks.record import record
from minedraft.channel.base import ReceiverEnd, SenderEnd
from minedraft.channel.gloo import GlooReceiver, GlooSender
from minedraft.channel.inline import InlineReceiver, InlineSender
from minedraft.channel.shm import ShmReceiver, ShmSender
from minedraft.rpc.convert_channel import read_chunk, write_chunk
from minedraft.types import ChannelKind, ChannelSpec, PayloadChunk
from minedraft.v1 import common_pb2 as common

SHAPE: Final = (40, 152_064)
NBYTES: Final = 2 * 40 * 152_064
SLOTS: Final = 2
FOLDER: Final = Path("/dev/shm")
METHOD: Final = "/minedraft.benchmark/Relay"
LIMIT: Final = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


def spec(kind: ChannelKind) -> ChannelSpec:
    return ChannelSpec("benchmark", 1, kind, SLOTS, NBYTES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    context = multiprocessing.get_context("spawn")
    relay_here, relay_there = context.Pipe()
    relay = context.Process(target=run_relay, args=(relay_there,), daemon=True)
    relay.start()
    address = relay_here.recv()
    here, there = context.Pipe()
    sending = context.Process(target=run_sender, args=(there, address), daemon=True)
    sending.start()
    with receivers(here, address) as ends:
        times = measure(here, ends, options.rounds)
    medians = {name: round(statistics.median(values) * 1e3, 3) for name, values in times.items()}
    fields = {
        "payload_bytes": NBYTES,
        "threads": 1,
        "rounds": options.rounds,
        "median_ms": medians,
        "shm_over_memcpy": round(medians["shm: write, publish, receive"] / medians["memcpy"], 2),
        "shm_with_pipe_over_memcpy": round(medians["shm, with the pipe"] / medians["memcpy"], 2),
        "inline_over_gloo": round(medians["inline"] / medians["gloo"], 2),
    }
    print(json.dumps(record("channels", fields), indent=1))
    here.send(None)
    sending.join(5)
    relay.terminate()


def measure(here: Connection, ends: dict[str, ReceiverEnd], rounds: int) -> dict[str, list[float]]:
    """Seconds, by what was timed."""
    one, other = (torch.zeros(NBYTES, dtype=torch.uint8) for _ in range(2))
    times: dict[str, list[float]] = {}

    def note(name: str, seconds: float) -> None:
        times.setdefault(name, []).append(seconds)

    for number in range(rounds + 3):
        begun = time.perf_counter()
        other.copy_(one)
        copied = time.perf_counter() - begun
        found = {}
        for kind, receiver in ends.items():
            begun = time.perf_counter()
            here.send(kind)
            ref, writing = here.recv()
            handed = time.perf_counter()
            payload = receiver.receive(ref)
            done = time.perf_counter()
            if int(payload[0, 0]) != ref.sequence % 100 or int(payload[-1, -1]) != ref.sequence % 100:
                raise SystemExit(f"{kind}: wrong bytes")
            receiver.release(ref)
            found[kind] = (writing, done - handed, done - begun)
        if number < 3:
            continue  # warming up
        note("memcpy", copied)
        writing, reading, whole = found["shm"]
        note("shm: write, publish, receive", writing + reading)
        note("shm, with the pipe", whole)
        note("shm: receive alone", reading)
        note("gloo", found["gloo"][2])
        note("inline", found["inline"][2])
    return times


@contextmanager
def receivers(here: Connection, address: str) -> Iterator[dict[str, ReceiverEnd]]:
    """This process's ends, open."""
    inline = InlineReceiver(spec(ChannelKind.INLINE))
    ends: dict[str, ReceiverEnd] = {
        "shm": ShmReceiver(spec(ChannelKind.SHM), FOLDER),
        "gloo": GlooReceiver(spec(ChannelKind.GLOO), "127.0.0.1"),
        "inline": inline,
    }
    threading.Thread(target=take_until_the_end, args=(inline, address), daemon=True).start()
    here.send({kind: end.offer() for kind, end in ends.items()})
    for kind, answer in here.recv().items():
        ends[kind].seal(answer)
    yield ends
    for end in ends.values():
        end.close()


def run_sender(there: Connection, address: str) -> None:
    """The other process: writes a payload whenever it is told to."""
    torch.set_num_threads(1)
    send = chunks_to(address)
    ends: dict[str, SenderEnd] = {
        "shm": ShmSender(spec(ChannelKind.SHM), FOLDER),
        "gloo": GlooSender(spec(ChannelKind.GLOO), "127.0.0.1"),
        "inline": InlineSender(spec(ChannelKind.INLINE), send),
    }
    there.send({kind: ends[kind].join(offer) for kind, offer in there.recv().items()})
    law, numbers = torch.zeros(SHAPE, dtype=torch.float16), dict.fromkeys(ends, 0)
    while (kind := there.recv()) is not None:
        numbers[kind] += 1
        law[0, 0] = law[-1, -1] = numbers[kind] % 100
        begun = time.perf_counter()
        slot = ends[kind].acquire()
        if slot is None:
            raise SystemExit("no slot")
        ends[kind].write(slot, law)
        ref = ends[kind].publish(slot, torch.float16, SHAPE)
        there.send((ref, time.perf_counter() - begun))
        ends[kind].reclaim(slot)


def chunks_to(address: str) -> Callable[[PayloadChunk], None]:
    """Sends chunks to the relay, on an event loop of its own as in a service."""
    ready = threading.Event()
    found: dict[str, Any] = {}

    async def write() -> None:
        found["loop"], found["queue"] = asyncio.get_running_loop(), asyncio.Queue()
        async with grpc.aio.insecure_channel(address, options=LIMIT) as channel:
            call = channel.stream_stream(
                f"{METHOD}/Send", common.PayloadChunk.SerializeToString, common.PayloadChunk.FromString
            )()
            ready.set()
            while True:
                await call.write(write_chunk(await found["queue"].get()))

    threading.Thread(target=lambda: asyncio.run(write()), daemon=True).start()
    ready.wait()
    return lambda chunk: found["loop"].call_soon_threadsafe(found["queue"].put_nowait, chunk)


def take_until_the_end(receiver: InlineReceiver, address: str) -> None:
    with suppress(grpc.RpcError):  # the relay was ended
        asyncio.run(take_chunks(receiver, address))


async def take_chunks(receiver: InlineReceiver, address: str) -> None:
    """Takes chunks from the relay, on an event loop of its own as in a service."""
    async with grpc.aio.insecure_channel(address, options=LIMIT) as channel:
        call = channel.stream_stream(
            f"{METHOD}/Take", common.PayloadChunk.SerializeToString, common.PayloadChunk.FromString
        )()
        while (chunk := await call.read()) is not grpc.aio.EOF:
            receiver.take(read_chunk(chunk))


def run_relay(there: Connection) -> None:
    """The third process, in the coordinator's place: what one stream sends the other gets."""

    async def serve() -> None:
        queue: asyncio.Queue[common.PayloadChunk] = asyncio.Queue()

        async def send(requests: AsyncIterator[common.PayloadChunk], context: Any) -> None:
            async for chunk in requests:
                queue.put_nowait(chunk)

        async def take(requests: Any, context: Any) -> None:
            while True:
                await context.write(await queue.get())

        server = grpc.aio.server(options=LIMIT)
        codec = {
            "request_deserializer": common.PayloadChunk.FromString,
            "response_serializer": common.PayloadChunk.SerializeToString,
        }
        handlers = {
            "Send": grpc.stream_stream_rpc_method_handler(send, **codec),
            "Take": grpc.stream_stream_rpc_method_handler(take, **codec),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(METHOD[1:], handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        there.send(f"127.0.0.1:{port}")
        await server.wait_for_termination()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
