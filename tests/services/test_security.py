"""Who is let in and who is not, over real loopback gRPC: certificates, tokens, limits, and nothing secret in a log."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import pytest_asyncio
import structlog
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import drafter_service.__main__ as drafter_main
from coordinator.channel import exposure
from coordinator.clients import Clients
from coordinator.service import FULL_NAME, GenerationServicer
from minedraft.client import AsyncClient, Client
from minedraft.config import CoordinatorSettings, DrafterSettings, HttpSettings, ServiceSettings
from minedraft.errors import InvalidRequest, Overloaded, PeerUnavailable, SetupError, Unauthenticated
from minedraft.generation import GenerateRequest, Text, TokenIds
from minedraft.http.service import HttpService
from minedraft.rpc.credentials import ClientTls
from minedraft.rpc.gate import TokenGate
from minedraft.rpc.server import Server
from minedraft.rpc.tokens import Tokens
from minedraft.types import ChannelKind, HostFacts, SamplingParams
from minedraft.v1 import common_pb2 as common
from minedraft.v1 import drafter_pb2, drafter_pb2_grpc, verifier_pb2, verifier_pb2_grpc
from minedraft.v1 import generation_pb2 as pb
from minedraft.v1 import generation_pb2_grpc as pb_grpc
from tests.certificates import Authority, Pair
from tests.cluster import Cluster, cluster
from tests.models import tiny_llama
from tests.unit.coordinator.fakes import FakeDrafter, FakeVerifier
from tests.unit.coordinator.harness import coordinating

ALICE, BOB, OLD, WRONG = "a" * 32, "b" * 32, "c" * 32, "d" * 32
TOKENS = f"alice:{ALICE}\nbob:{BOB}\nalice:{OLD}:2001-01-01\n"
SECONDS = 5.0  # a deadline that every refusal must keep
NOT_NEEDED = common.SamplingParams(max_new_tokens=4)
SHORT = GenerateRequest(TokenIds((70, 71, 72)), SamplingParams(temperature=0, max_new_tokens=4))
LONG = GenerateRequest(TokenIds((70, 71)), SamplingParams(temperature=0, max_new_tokens=400, ignore_eos=True))


def tokens_in(folder: Path) -> Path:
    path = folder / "tokens"
    path.touch(mode=0o600)
    path.write_text(TOKENS)
    return path


@dataclass
class House:
    """A whole cluster under mutual TLS, and what it takes to come in."""

    cluster: Cluster
    authority: Authority
    inside: Pair  # of the services among each other
    stranger: Pair  # of an authority that nobody believes

    @property
    def address(self) -> str:
        return self.cluster.client.address

    def client(self, token: str = ALICE, **options: Any) -> AsyncClient:
        chosen: dict[str, Any] = {"token": token, "ca": self.authority.file} | options
        return AsyncClient(self.address, **chosen)

    def secure(self, address: str, shown: Pair | None = None, ca: Path | None = None) -> grpc.aio.Channel:
        files = (str(shown.cert), str(shown.key)) if shown else ("", "")
        return ClientTls(str(ca or self.authority.file), *files).aio_channel(address, [])


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("house")
    authority = Authority(folder)
    strangers = tmp_path_factory.mktemp("strangers")
    inside, front = authority.issue("inside"), authority.issue("front")
    target = tiny_llama(folder / "target", vocab_size=300, max_len=512)
    coordinator: dict[str, Any] = {"token_file": str(tokens_in(folder)), "max_prompt_tokens": 40, "max_message_mib": 1}
    coordinator |= front.server() | inside.caller(authority.file)
    model: dict[str, Any] = dict(inside.server(client_ca=authority.file))
    caller = {"token": ALICE, "ca": authority.file}
    async with cluster(target, "ngram", model=model, client=caller, **coordinator) as running:
        yield House(running, authority, inside, Authority(strangers, "strangers").issue("stranger"))


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """How a call fails, within its deadline."""
    begun = time.monotonic()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert time.monotonic() - begun < SECONDS + 5
    return caught.value


@pytest.mark.asyncio(loop_scope="module")
async def test_a_generation_crosses_three_encrypted_services(house: House) -> None:
    info = await house.cluster.client.wait_ready(20, drafter=True)
    assert info.drafter.connected
    output = await house.cluster.client.complete(SHORT)
    assert len(output.token_ids) == 4
    assert (await house.cluster.client.server_info()).speculation.rounds > 0


@pytest.mark.asyncio(loop_scope="module")
async def test_the_http_door_calls_over_tls_with_a_token(house: House, tmp_path: Path) -> None:
    files: dict[str, Any] = {"tls_ca": str(house.authority.file), "token_file": str(tokens_in(tmp_path))}
    for given, status in ((files, 200), (files | {"token_file": ""}, 503), ({}, 503)):
        door = HttpService(HttpSettings(listen="127.0.0.1:0", coordinator=house.address, grace_seconds=0, **given))
        address = await door.start()
        try:
            async with httpx.AsyncClient(base_url=f"http://{address}") as client:
                assert (await client.get("/v1/models")).status_code == status
        finally:
            await door.stop()


@pytest.mark.asyncio(loop_scope="module")
async def test_model_services_want_a_certificate_of_theirs(house: House) -> None:
    expired = house.authority.issue("expired", lifetime=timedelta(days=-1))
    address = house.cluster.verifier_settings.listen
    for shown in (None, expired, house.stranger):
        async with house.secure(address, shown) as channel:
            stub = verifier_pb2_grpc.VerifierServiceStub(channel)
            refused = await failure(stub.GetTokenizer(verifier_pb2.GetTokenizerRequest(), timeout=SECONDS))
            assert refused.code() is grpc.StatusCode.UNAVAILABLE
    async with house.secure(address, house.inside) as channel:
        stub = verifier_pb2_grpc.VerifierServiceStub(channel)
        assert (await stub.GetTokenizer(verifier_pb2.GetTokenizerRequest(), timeout=SECONDS)).fingerprint


async def reflect(channel: grpc.aio.Channel, metadata: Any) -> Any:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub
    call = stub(channel).ServerReflectionInfo(metadata=metadata, timeout=SECONDS)
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    return await call.read()


CREDENTIALS = {
    "missing": ([], "a token is needed"),
    "wrong": ([("authorization", f"Bearer {WRONG}")], "the token is wrong"),
    "expired": ([("authorization", f"Bearer {OLD}")], "the token has expired"),
    "another scheme": ([("authorization", f"Basic {ALICE}")], "must be one `Bearer TOKEN`"),
    "two": ([("authorization", f"Bearer {ALICE}"), ("authorization", f"Bearer {BOB}")], "must be one `Bearer TOKEN`"),
}


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("metadata", "words"), CREDENTIALS.values(), ids=CREDENTIALS)
async def test_every_call_without_a_valid_token_is_unauthenticated(house: House, metadata: Any, words: str) -> None:
    request = pb.GenerateRequest(text="x", sampling=NOT_NEEDED)
    options: dict[str, Any] = {"metadata": metadata, "timeout": SECONDS}
    async with house.secure(house.address) as channel:
        stub = pb_grpc.GenerationServiceStub(channel)
        unknown: Any = channel.unary_unary("/minedraft.v1.GenerationService/Nothing")
        calls: list[Any] = [
            stub.Complete(pb.CompleteRequest(generate=request), **options),
            stub.Generate(request, **options).read(),
            stub.GetServerInfo(pb.GetServerInfoRequest(), **options),
            unknown(b"", **options),
            reflect(channel, metadata),
        ]
        for call in calls:
            refused = await failure(call)
            assert refused.code() is grpc.StatusCode.UNAUTHENTICATED
            assert words in (refused.details() or "")
            assert not any(secret in str(refused) for secret in (ALICE, BOB, OLD, WRONG))


@pytest.mark.asyncio(loop_scope="module")
async def test_health_is_open_and_reflection_is_not(house: House) -> None:
    async with house.secure(house.address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(service=FULL_NAME), timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        listed = await reflect(channel, [("authorization", f"bearer {BOB}")])
        assert FULL_NAME in {service.name for service in listed.list_services_response.service}


@pytest.mark.asyncio(loop_scope="module")
async def test_the_clients_raise_what_was_meant(house: House) -> None:
    async with house.client(token=WRONG) as client:
        with pytest.raises(Unauthenticated, match="the token is wrong"):
            await client.complete(SHORT, timeout=SECONDS)
        with pytest.raises(Unauthenticated, match="the token is wrong"):
            await client.wait_ready(SECONDS)

    def blocking() -> int:
        with Client(house.address, token=BOB, ca=house.authority.file) as client:
            client.wait_ready(SECONDS)
            return len(client.complete(SHORT, timeout=SECONDS).token_ids)

    assert await asyncio.to_thread(blocking) == 4


@pytest.mark.asyncio(loop_scope="module")
async def test_an_unknown_authority_and_plaintext_fail_in_time_and_harm_nobody(house: House, tmp_path: Path) -> None:
    unknown = Authority(tmp_path, "unknown").file
    async with house.client(ca=unknown) as client:
        with pytest.raises(PeerUnavailable, match=r"^no TLS connection to .*CERTIFICATE_VERIFY_FAILED"):
            await client.complete(SHORT, timeout=SECONDS)
        with pytest.raises(PeerUnavailable, match=r"is not ready after 0.5 s: no TLS .*CERTIFICATE_VERIFY_FAILED"):
            await client.wait_ready(0.5)
    async with AsyncClient(house.address, token=ALICE) as plain:
        with pytest.raises(PeerUnavailable):
            await plain.complete(SHORT, timeout=SECONDS)
        with pytest.raises(PeerUnavailable, match="is not ready"):
            await plain.wait_ready(0.5)
    assert len((await house.cluster.client.complete(SHORT)).token_ids) == 4


@pytest.mark.asyncio(loop_scope="module")
async def test_an_oversized_message_is_refused_whole(house: House) -> None:
    huge = GenerateRequest(Text("x" * (1 << 20)), SHORT.sampling)
    with pytest.raises(Overloaded, match="larger than max"):
        await house.cluster.client.complete(huge, timeout=SECONDS)
    with pytest.raises(InvalidRequest, match=r"^token_ids: 41 tokens; at most 40, the limit max_prompt_tokens$"):
        await house.cluster.client.complete(GenerateRequest(TokenIds((70,) * 41), SHORT.sampling), timeout=SECONDS)
    output = await house.cluster.client.complete(GenerateRequest(TokenIds((70,) * 40), SHORT.sampling))
    assert output.token_ids


# ------------------------------------------------------------------------------------------ one small service is enough


@asynccontextmanager
async def drafter(**settings: Any) -> AsyncIterator[str]:
    service = drafter_main.build(DrafterSettings(model="ngram", listen="127.0.0.1:0", grace_seconds=0.1, **settings))
    address = await service.start()
    try:
        yield address
    finally:
        await service.stop()


async def ask(channel: grpc.aio.Channel) -> Any:
    """A call that any client of a drafter may make."""
    stub = drafter_pb2_grpc.DrafterServiceStub(channel)
    return await stub.GetInfo(drafter_pb2.DrafterServiceGetInfoRequest(), timeout=SECONDS)


async def test_tls_to_a_plaintext_port_fails_in_time(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    async with drafter() as address:
        async with ClientTls(str(authority.file)).aio_channel(address, []) as channel:
            assert (await failure(ask(channel))).code() is grpc.StatusCode.UNAVAILABLE
        async with ClientTls().aio_channel(address, []) as channel:
            assert (await ask(channel)).model.architecture == "ngram"


async def test_certificates_of_servers_are_checked(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    past = authority.issue("past", lifetime=timedelta(days=-1))
    elsewhere = authority.issue("elsewhere", hosts=("other.example",), addresses=())
    for pair in (past, elsewhere):
        async with drafter(**pair.server()) as address:
            async with ClientTls(str(authority.file)).aio_channel(address, []) as channel:
                refused = await failure(ask(channel))
                assert refused.code() is grpc.StatusCode.UNAVAILABLE
            if pair is elsewhere:  # which is the server that the client is told to look for
                named = ClientTls(str(authority.file), server_name="other.example")
                async with named.aio_channel(address, []) as channel:
                    assert (await ask(channel)).model.architecture == "ngram"


async def serial(address: str, authority: Authority) -> int:
    """The number of the certificate that a new connection is shown."""
    context = ssl.create_default_context(cafile=authority.file)
    context.set_alpn_protocols(["h2"])
    host, _, port = address.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return x509.load_der_x509_certificate(shown).serial_number


def replace(old: Path, new: Path) -> None:
    copy = new.with_suffix(".copy")
    shutil.copy(new, copy)
    os.replace(copy, old)


async def test_a_rotated_certificate_is_served_to_new_connections(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    first, second = authority.issue("first"), authority.issue("second")
    async with (
        drafter(**first.server()) as address,
        ClientTls(str(authority.file)).aio_channel(address, []) as channel,
    ):
        await ask(channel)
        assert await serial(address, authority) == first.serial
        replace(first.cert, second.cert)
        with structlog.testing.capture_logs() as logs:
            assert await serial(address, authority) == first.serial  # half replaced: the old pair holds
            assert await serial(address, authority) == first.serial
        assert [line["event"] for line in logs] == ["certificate cannot be renewed; the old one holds"]
        replace(first.key, second.key)
        assert await serial(address, authority) == second.serial
        assert (await ask(channel)).model.architecture == "ngram"  # which was never interrupted


async def test_a_caller_reads_its_files_for_each_connection(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "others").mkdir()
    wrong = Authority(tmp_path / "others")
    pair, ca = authority.issue("service"), tmp_path / "ca.pem"
    shutil.copy(wrong.file, ca)
    tls = ClientTls(str(ca), str(pair.cert), str(pair.key))
    async with drafter(**pair.server(client_ca=authority.file)) as address:
        async with tls.aio_channel(address, []) as channel:
            await failure(ask(channel))
        replace(ca, authority.file)
        async with tls.aio_channel(address, []) as channel:
            assert (await ask(channel)).model.architecture == "ngram"


async def test_a_silent_connection_is_closed_and_connections_are_counted() -> None:
    async with drafter(handshake_timeout_seconds=0.5, max_connections=2) as address:
        host, _, port = address.rpartition(":")
        opened = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        third, writer = await asyncio.open_connection(host, int(port))
        assert await asyncio.wait_for(third.read(), SECONDS) == b""
        writer.close()
        for reader, silent in opened:
            await asyncio.wait_for(reader.read(), SECONDS)  # to its end
            silent.close()
        async with ClientTls().aio_channel(address, [("grpc.initial_reconnect_backoff_ms", 50)]) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            await health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS, wait_for_ready=True)


# ------------------------------------------------------------------------------------ the coordinator's face


@asynccontextmanager
async def guarded(folder: Path, at_once: int = 0, per_minute: int = 0) -> AsyncIterator[str]:
    server = Server(CoordinatorSettings(listen="127.0.0.1:0"), [FULL_NAME], [TokenGate(Tokens(tokens_in(folder)))])
    servicer = GenerationServicer("toy:1", Clients(at_once, per_minute))
    server.add(servicer.register)
    await server.start()
    pace = FakeVerifier(delay=lambda: 0.01), FakeDrafter(delay=lambda: 0.0005)
    async with coordinating(*pace) as coordinator:
        servicer.coordinator = coordinator
        await server.serving()
        yield server.address
        await server.stop(1)


async def test_a_client_has_its_own_share_of_running_requests(tmp_path: Path) -> None:
    async with (
        guarded(tmp_path, at_once=1) as address,
        AsyncClient(address, token=ALICE) as alice,
        AsyncClient(address, token=BOB) as bob,
    ):
        running: Any = alice.generate(LONG)
        await anext(running)
        with pytest.raises(Overloaded, match=r"^max_requests_per_client: 1 requests at once"):
            await alice.complete(SHORT)
        assert (await bob.complete(SHORT)).token_ids
        await running.aclose()
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                assert (await alice.complete(SHORT)).token_ids
                break
            except Overloaded:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.01)


async def test_a_client_has_its_own_rate(tmp_path: Path) -> None:
    async with (
        guarded(tmp_path, per_minute=2) as address,
        AsyncClient(address, token=ALICE) as alice,
        AsyncClient(address, token=BOB) as bob,
    ):
        for _ in range(2):
            await alice.complete(SHORT)
        with pytest.raises(Overloaded, match=r"^requests_per_minute: 2 requests a minute; try again in \d+\.\d s"):
            await alice.complete(SHORT)
        assert (await bob.complete(SHORT)).token_ids
        await alice.server_info()  # which is no request


@contextmanager
def captured() -> Iterator[io.StringIO]:
    """All log lines, as JSON and from DEBUG on."""
    before, lines = structlog.get_config(), io.StringIO()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(0),
        logger_factory=structlog.PrintLoggerFactory(lines),
        cache_logger_on_first_use=False,
    )
    try:
        yield lines
    finally:
        structlog.configure(**before)


async def test_logs_name_clients_and_hold_no_secret(tmp_path: Path) -> None:
    with captured() as lines:
        async with guarded(tmp_path) as address:
            for token in (ALICE, WRONG, OLD):
                async with AsyncClient(address, token=token) as client:
                    if token == ALICE:
                        await client.complete(SHORT)
                        continue
                    with pytest.raises(Unauthenticated):
                        await client.complete(SHORT)
    text = lines.getvalue()
    assert '"client": "alice"' in next(line for line in text.splitlines() if "request over" in line)
    assert len([line for line in text.splitlines() if "calls refused" in line]) == 1  # however many there were
    assert not any(secret in text for secret in (ALICE, BOB, OLD, WRONG))


# ------------------------------------------------------------------------------------------------- set-ups and defaults


def test_a_token_never_leaves_the_machine_in_plaintext(tmp_path: Path) -> None:
    for address in ("10.0.0.1:1", "coordinator:1", "localhost.example:1", "dns:///127.0.0.1.example:1", "0.0.0.0:1"):
        for kind in (Client, AsyncClient):
            with pytest.raises(SetupError, match=r"^a token is not sent to .* in plaintext") as caught:
                kind(address, token=ALICE)
            assert ALICE not in str(caught.value)
    for address in ("127.0.0.1:1", "127.9.9.9:1", "localhost:1", "[::1]:1"):
        Client(address, token=ALICE).close()
    Client("coordinator:1", token=ALICE, ca=Authority(tmp_path).file).close()


def setups(tmp_path: Path) -> list[tuple[dict[str, str], str]]:
    authority = Authority(tmp_path)
    one, two = authority.issue("one"), authority.issue("two")
    locked = authority.issue("locked", password=b"secret")
    none = str(tmp_path / "none.pem")
    return [
        ({"tls_cert": str(one.cert)}, "^--tls-cert and --tls-key: give both or none$"),
        ({"tls_key": str(one.key)}, "^--tls-cert and --tls-key: give both or none$"),
        ({"tls_client_ca": str(authority.file)}, "^--tls-client-ca: needs --tls-cert and --tls-key$"),
        ({"tls_cert": none, "tls_key": str(one.key)}, r"^--tls-cert: .*none\.pem cannot be read: No such file"),
        ({"tls_cert": str(one.cert), "tls_key": none}, r"^--tls-key: .*none\.pem cannot be read: No such file"),
        (
            {"tls_cert": str(one.cert), "tls_key": str(two.key)},
            r"one\.pem is not the certificate of the key in .*two\.key",
        ),
        ({"tls_cert": str(one.key), "tls_key": str(one.key)}, "are not a PEM certificate chain"),
        ({"tls_cert": str(locked.cert), "tls_key": str(locked.key)}, "unencrypted key"),
        (one.server(client_ca=one.key), r"^--tls-client-ca: .*one\.key holds no PEM certificate"),
    ]


def test_a_wrong_certificate_is_told_at_the_start(tmp_path: Path) -> None:
    for fields, words in setups(tmp_path):
        with pytest.raises(SetupError, match=words):
            Server(ServiceSettings(listen="127.0.0.1:0", **fields), [])  # type: ignore[arg-type]
    pair = tmp_path / "one.pem", tmp_path / "one.key"
    for tls, words in [
        (ClientTls(cert=str(pair[0]), key=str(pair[1])), "^--tls-ca: needed"),
        (ClientTls("system", cert=str(pair[0])), "^--tls-client-cert and --tls-client-key"),
        (ClientTls(str(tmp_path / "none.pem")), r"^--tls-ca: .* cannot be read"),
        (ClientTls(str(pair[1])), r"^--tls-ca: .* holds no PEM certificate"),
        (ClientTls("system", str(pair[0]), str(tmp_path / "two.key")), "is not the certificate of the key"),
    ]:
        with pytest.raises(SetupError, match=words):
            tls.check()
    ClientTls("system").check()


async def test_an_address_that_others_can_reach_warns(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.issue("public")
    gate = TokenGate(Tokens(tokens_in(tmp_path)))
    cases: list[tuple[str, dict[str, str], list[TokenGate], list[str]]] = [
        ("127.0.0.1:0", {}, [], []),
        ("0.0.0.0:0", {}, [], ["PLAINTEXT", "ANYONE"]),
        ("0.0.0.0:0", pair.server(), [], ["ANYONE"]),
        ("0.0.0.0:0", {}, [gate], ["PLAINTEXT"]),
        ("0.0.0.0:0", pair.server(), [gate], []),
        ("0.0.0.0:0", pair.server(client_ca=authority.file), [], []),
    ]
    for listen, fields, guards, words in cases:
        with structlog.testing.capture_logs() as logs:
            server = Server(CoordinatorSettings(listen=listen, **fields), [], guards)  # type: ignore[arg-type]
        await server.stop(0)
        assert [line["event"].split()[0] for line in logs] == words
        assert {line["log_level"] for line in logs} <= {"warning"}


def test_no_plaintext_channel_is_chosen_between_machines_under_tls() -> None:
    here, there, same = HostFacts("one"), HostFacts("two"), HostFacts("one")
    for kind in (ChannelKind.GLOO, ChannelKind.NCCL):
        assert "not encrypted" in exposure(kind, here, there)
        assert exposure(kind, here, same) == ""
    for kind in (ChannelKind.INLINE, ChannelKind.SHM, ChannelKind.CUDA_IPC):
        assert exposure(kind, here, there) == ""
