"""Sessions of an enemy with the three services, many at once. Shared with benchmarks/fuzz_grpc.py.

A session is one call, or one stream with some messages. Its number decides what it sends, but for what it takes from
answers. The clients are threads: the streams of grpc.aio's clients may end with a status of their own making.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import grpc
import numpy as np
from grpc_health.v1 import health_pb2, health_pb2_grpc

from minedraft.client import Client
from minedraft.generation import GenerateRequest, TokenIds
from minedraft.model.simulated import simulated_target
from minedraft.model.simulated_spec import SimulationSpec
from minedraft.types import SamplingParams, ServiceState
from minedraft.v1 import common_pb2 as common
from minedraft.v1 import drafter_pb2 as drafter
from minedraft.v1 import drafter_pb2_grpc as drafter_grpc
from minedraft.v1 import generation_pb2 as generation
from minedraft.v1 import verifier_pb2 as verifier
from minedraft.v1 import verifier_pb2_grpc as verifier_grpc
from tests.services.hostile import VOCAB, on_the_wire
from tests.services.hostile_peer import Enemy, generate

SIMULATED: Final = f"drafter=0ms,verifier=0ms,accept=0.7,vocab={VOCAB},max_len=160"
MODEL_FLAGS: Final = ("--max-channel-mib", "1", "--num-blocks", "330")
# What a client has itself to blame for, or what it is told of a full house. OK is one: some messages are right.
EXPECTED: Final = frozenset(
    {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
GENERATION, DRAFTER, VERIFIER = (f"minedraft.v1.{name}Service" for name in ("Generation", "Drafter", "Verifier"))
# (service, method, how often): every method of the three services
METHODS: Final = (
    (GENERATION, "Generate", 8),
    (GENERATION, "Complete", 8),
    (GENERATION, "GetServerInfo", 2),
    (DRAFTER, "GetInfo", 1),
    (DRAFTER, "Draft", 8),
    (VERIFIER, "GetInfo", 1),
    (VERIFIER, "GetTokenizer", 1),
    (VERIFIER, "Verify", 8),
)
REQUESTS: Final[dict[tuple[str, str], Any]] = {
    (GENERATION, "Generate"): generation.GenerateRequest,
    (GENERATION, "Complete"): generation.CompleteRequest,
    (GENERATION, "GetServerInfo"): generation.GetServerInfoRequest,
    (DRAFTER, "GetInfo"): drafter.DrafterServiceGetInfoRequest,
    (DRAFTER, "Draft"): drafter.DraftRequest,
    (VERIFIER, "GetInfo"): verifier.VerifierServiceGetInfoRequest,
    (VERIFIER, "GetTokenizer"): verifier.GetTokenizerRequest,
    (VERIFIER, "Verify"): verifier.VerifyRequest,
}
RESPONSES: Final[dict[str, Any]] = {"Draft": drafter.DraftResponse, "Verify": verifier.VerifyResponse}
PATIENCE_SECONDS: Final = 60.0
FRIENDLY_SECONDS: Final = 0.5  # between two right requests
SETTLE_SECONDS: Final = 10.0
PROMPT: Final = (70, 71, 72)
LENGTH: Final = 40


class Fault(AssertionError):
    """A service did what it must not. The message names the session."""


@dataclass
class Fuzz:
    """An enemy of running services, and what it has seen so far. `_lock` guards the counters."""

    addresses: dict[str, str]  # by service
    seed: int = 0
    messages: Counter[str] = field(default_factory=Counter)  # by type
    codes: Counter[str] = field(default_factory=Counter)  # "Service/Method CODE"
    answers: Counter[str] = field(default_factory=Counter)  # what the streams brought, and how items ended
    faults: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def sent(self) -> int:
        return self.messages.total()

    def run(self, messages: int, at_once: int = 16, progress: Callable[[int], None] = lambda sent: None) -> None:
        """Send that many, then see whether all is as it was. `faults` has what was wrong meanwhile; raises Fault for
        what is wrong at the end. All the while a friend asks, too, and must get the right tokens."""
        with ExitStack() as open_:
            client = open_.enter_context(Client(self.addresses[GENERATION]))
            channels = {
                service: open_.enter_context(grpc.insecure_channel(address))
                for service, address in self.addresses.items()
            }
            check_generate(client)
            before = held(channels)
            with ThreadPoolExecutor(at_once) as threads:
                numbers = itertools.count()
                sessions = [threads.submit(self._enemy, numbers, messages, channels) for _ in range(at_once)]
                while not all(session.done() for session in sessions):
                    progress(self.sent)
                    check_generate(client)
                    time.sleep(FRIENDLY_SECONDS)
                for session in sessions:
                    session.result()
            check_generate(client)
            check_all_is_free(channels, before)
            check_health(channels)

    def _enemy(self, numbers: Iterator[int], messages: int, channels: dict[str, grpc.Channel]) -> None:
        while self.sent < messages:
            self.session(next(numbers), channels)

    def session(self, number: int, channels: dict[str, grpc.Channel]) -> None:
        """One call or stream. A status that tells of a service's fault goes to `faults`."""
        rng = Random(f"{self.seed}/{number}")
        service, method, _ = rng.choices(METHODS, [weight for _, _, weight in METHODS])[0]
        path, kind = f"/{service}/{method}", REQUESTS[service, method]
        if method in RESPONSES:
            call, excuse = self._stream(rng, channels[service], path, kind)
        else:
            call, excuse = self._call(rng, channels[service], path, kind)
        code = call.code()
        with self._lock:
            self.codes[f"{path.rpartition('.')[2]} {code.name}"] += 1
            if code not in EXPECTED and code not in excuse:
                self.faults.append(f"session {number}: {path} ended with {code.name}: {call.details()}")

    def _call(self, rng: Random, channel: Any, path: str, kind: type[Any]) -> tuple[Any, list[Any]]:
        """The call, which has ended, and how it may have ended because of this side."""
        right = kind()
        if kind is generation.GenerateRequest:
            right = generate(rng)
        elif kind is generation.CompleteRequest:
            right.generate.CopyFrom(generate(rng))
        data = on_the_wire(rng, right)
        self._count(kind)
        excuse, timeout = [], PATIENCE_SECONDS
        if rng.random() < 0.05:
            excuse, timeout = [grpc.StatusCode.DEADLINE_EXCEEDED], rng.choice((0.001, 0.02))
        call: Any = channel.unary_stream(path)(data, timeout=timeout)  # a call with one answer may be read so, too
        if rng.random() < 0.1:
            time.sleep(rng.random() * 0.01)
            excuse.append(grpc.StatusCode.CANCELLED)
            call.cancel()
        with suppress(grpc.RpcError):
            for _ in call:
                pass
        return call, excuse

    def _stream(self, rng: Random, channel: Any, path: str, kind: type[Any]) -> tuple[Any, list[Any]]:
        enemy, answered = Enemy(rng, kind), threading.Event()
        calls: list[Any] = []
        excuse: list[Any] = []
        rightness = rng.choice((0.3, 0.7, 0.9, 0.97))  # the first message without sense ends the stream

        def messages() -> Iterator[bytes]:  # on a thread of gRPC's
            for _ in range(rng.randint(1, 20)):
                data = on_the_wire(rng, enemy.right(), rightness)
                answered.clear()
                self._count(kind)
                yield data
                if rng.random() < 0.5:
                    answered.wait(0.05)
            if rng.random() < 0.15:
                excuse.append(grpc.StatusCode.CANCELLED)
                calls[0].cancel()

        started = threading.Event()

        def after_start() -> Iterator[bytes]:
            started.wait()
            yield from messages()

        call: Any = channel.stream_stream(path)(after_start(), timeout=PATIENCE_SECONDS)
        calls.append(call)
        started.set()
        with suppress(grpc.RpcError):
            for data in call:
                response = RESPONSES[path.rpartition("/")[2]].FromString(data)
                enemy.saw(response)
                answered.set()
                with self._lock:
                    self.answers.update(_said(response))
        return call, excuse

    def _count(self, kind: type[Any]) -> None:
        with self._lock:
            self.messages[kind.__name__] += 1


def _said(response: Any) -> list[str]:
    """The kinds of answers in one message of a stream."""
    kind = response.WhichOneof("message")
    if kind == "channel":
        return ["channel refused" if response.channel.error else "channel done"]
    if kind != "reply":
        return [kind]
    name = "proposals" if isinstance(response, drafter.DraftResponse) else "verdicts"
    return [common.ItemStatus.Name(item.status).replace("ITEM_STATUS", name) for item in getattr(response.reply, name)]


def check_generate(client: Client) -> None:
    """A right request has exactly the tokens of the simulated target's rule. Raises Fault."""
    sampling = SamplingParams(temperature=0, max_new_tokens=LENGTH, ignore_eos=True)
    output = client.complete(GenerateRequest(TokenIds(PROMPT), sampling), timeout=PATIENCE_SECONDS)
    if output.token_ids != expected_tokens():
        raise Fault(f"wrong tokens: {output.token_ids}")


def expected_tokens() -> tuple[int, ...]:
    """What follows `PROMPT`, from the rule itself."""
    target = simulated_target(SimulationSpec.parse(SIMULATED))
    tokens = list(PROMPT)
    for _ in range(LENGTH):
        tokens += target.choose(np.array(tokens[-1:]), np.array([len(tokens)])).tolist()
    return tuple(tokens[len(PROMPT) :])


def held(channels: dict[str, grpc.Channel]) -> list[ServiceState]:
    """Sequences and free blocks of drafter and verifier."""
    drafts = drafter_grpc.DrafterServiceStub(channels[DRAFTER])
    verdicts = verifier_grpc.VerifierServiceStub(channels[VERIFIER])
    infos: list[Any] = [
        drafts.GetInfo(drafter.DrafterServiceGetInfoRequest(), timeout=PATIENCE_SECONDS),
        verdicts.GetInfo(verifier.VerifierServiceGetInfoRequest(), timeout=PATIENCE_SECONDS),
    ]
    return [ServiceState(info.state.instance_id, info.state.free_blocks, info.state.sequences) for info in infos]


def check_all_is_free(channels: dict[str, grpc.Channel], before: list[ServiceState]) -> None:
    """Neither service was started anew, and no sequence or block is held once the enemy is gone. Raises Fault."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while (after := held(channels)) != before:
        if time.monotonic() > deadline:
            raise Fault(f"held before: {before}, after: {after}")
        time.sleep(0.05)


def check_health(channels: dict[str, grpc.Channel]) -> None:
    """Raises Fault unless every service says SERVING."""
    for service, channel in channels.items():
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=PATIENCE_SECONDS)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise Fault(f"{service} is {answer.status}")
