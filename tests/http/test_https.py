"""The door over TLS, before a coordinator that wants TLS, a client's certificate and a token; with the real client."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from structlog.testing import capture_logs

from minedraft import config, health
from minedraft.cli.access import Protection
from minedraft.cli.doctor.finding import Scope
from minedraft.cli.doctor.server import check_server
from minedraft.cli.stack import Stack, StackOptions
from minedraft.config import HealthSettings, HttpSettings
from minedraft.errors import PeerUnavailable, SetupError, Unauthenticated
from minedraft.http.service import HttpService
from minedraft.http.upstream import REFUSED, tell_until_reached
from tests.certificates import Authority, Pair
from tests.http.fake_coordinator import FakeCoordinator, asking, door

SIMULATED = "drafter=0ms,verifier=0ms,accept=1"
TOKEN = "t" * 32


@asynccontextmanager
async def https(pair: Pair) -> AsyncIterator[tuple[HttpService, str]]:
    """A door with a certificate and without a coordinator."""
    shown_by: dict[str, Any] = pair.server()
    settings = HttpSettings(listen="127.0.0.1:0", coordinator="127.0.0.1:9", grace_seconds=0.1, **shown_by)
    service = HttpService(settings)
    address = await service.start()
    try:
        yield service, address
    finally:
        await service.stop()


def shown(address: str, **options: Any) -> int:
    """The serial number of the certificate that a door shows."""
    from cryptography import x509

    host, _, port = address.rpartition(":")
    return x509.load_pem_x509_certificate(
        ssl.get_server_certificate((host, int(port)), **options).encode()
    ).serial_number


class TestTheDoorsCertificate:
    async def test_is_served_and_renewed(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        pair = authority.issue("door")
        async with https(pair) as (_, address):
            assert await asyncio.to_thread(shown, address) == pair.serial
            pair.cert.write_bytes(authority.issue("other").cert.read_bytes())  # half of a replacement
            await asyncio.sleep(1.5)
            assert await asyncio.to_thread(shown, address) == pair.serial
            renewed = authority.issue("door")
            deadline = time.monotonic() + 10
            while await asyncio.to_thread(shown, address) != renewed.serial:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)

    async def test_wants_tls_1_2_and_no_plaintext(self, tmp_path: Path) -> None:
        authority = Authority(tmp_path)
        async with https(authority.issue("door")) as (_, address):
            trusting = ssl.create_default_context(cafile=authority.file)
            async with httpx.AsyncClient(base_url=f"https://{address}", verify=trusting) as client:
                assert (await client.get("/health")).status_code == 503  # there is no coordinator
            with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
                async with httpx.AsyncClient() as stranger:
                    await stranger.get(f"https://{address}/health")
            with pytest.raises(httpx.HTTPError):
                async with httpx.AsyncClient() as plain:
                    await plain.get(f"http://{address}/health")
            old = ssl.create_default_context(cafile=authority.file)
            with pytest.warns(DeprecationWarning, match="TLSv1_1"):
                old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
            with pytest.raises(httpx.ConnectError):
                async with httpx.AsyncClient(verify=old) as antique:
                    await antique.get(f"https://{address}/health")

    async def test_health_checks_know_it_from_the_doors_own_file(self, tmp_path: Path) -> None:
        pair, other = Authority(tmp_path).issue("door"), Authority(tmp_path, "stranger").issue("else")
        async with https(pair) as (_, address):
            for cert, said in ((pair.cert, "answered 503"), (other.cert, "CERTIFICATE_VERIFY_FAILED")):
                settings = HealthSettings(listen=address, http=True, tls_cert=str(cert))
                with pytest.raises(PeerUnavailable, match=said):
                    await asyncio.to_thread(health.ask, settings)

    def test_half_a_setup_is_told(self, tmp_path: Path) -> None:
        pair, other = (Authority(tmp_path, name).issue(f"{name}-door") for name in ("one", "two"))
        with pytest.raises(SetupError, match="give both or none"):
            HttpService(HttpSettings(tls_cert=str(pair.cert)))
        with pytest.raises(SetupError, match="is not the certificate of the key"):
            HttpService(HttpSettings(tls_cert=str(pair.cert), tls_key=str(other.key)))


class TestACoordinatorThatRefusesTheDoor:
    async def test_is_503_and_not_the_clients_fault(self) -> None:
        upstream = FakeCoordinator()
        async with asking(door(upstream)) as client:
            assert (await client.get("/v1/models")).status_code == 200  # what is served is known for a while
            upstream.error = Unauthenticated("the token is wrong")
            with capture_logs() as logs:
                for path, body in (
                    ("/v1/completions", {"prompt": "Hi"}),
                    ("/v1/completions", {"prompt": "Hi", "stream": True}),
                    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}),
                ):
                    answer = await client.post(path, json=body)
                    assert answer.status_code == 503
                    assert answer.json()["error"]["code"] == "service_unavailable"
                    assert "token" not in answer.text
                assert (await client.get("/health")).status_code == 503
        assert [(line["event"], line["reason"]) for line in logs if line["log_level"] == "error"] == [
            (REFUSED, "the token is wrong")
        ]

    async def test_is_told_when_the_door_starts_and_when_it_is_over(self) -> None:
        upstream = FakeCoordinator()
        upstream.error = PeerUnavailable("no TLS connection to here: certificate has expired")
        with capture_logs() as logs:
            telling = asyncio.create_task(tell_until_reached(upstream))
            await asyncio.sleep(0.1)
            upstream.error = Unauthenticated("a token is wanted")
            await asyncio.sleep(1.2)
            upstream.error = None
            await asyncio.wait_for(telling, 5)
        reasons = [line["reason"] for line in logs]
        assert reasons == ["no TLS connection to here: certificate has expired", "a token is wanted"]


@pytest.fixture(scope="module")
def protected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Protection]:
    """What `minedraft up` is given for mutual TLS and tokens."""
    folder = tmp_path_factory.mktemp("protected")
    authority = Authority(folder)
    server, client = authority.issue("server"), authority.issue("client")
    tokens = folder / "tokens"
    tokens.touch(mode=0o600)
    tokens.write_text(f"door:{TOKEN}\n")
    ca = str(authority.file)
    return authority, Protection(
        str(tokens), str(server.cert), str(server.key), ca, ca, str(client.cert), str(client.key)
    )


def test_up_brings_a_door_to_a_protected_coordinator(protected: tuple[Authority, Protection]) -> None:
    authority, protection = protected
    options = StackOptions(
        simulate=SIMULATED, draft="none", http="127.0.0.1:0", protection=protection,
        http_flags=("--tls-cert", protection.cert, "--tls-key", protection.key),
    )  # fmt: skip
    with Stack(options) as stack:
        assert stack.http_scheme == "https"
        trusting = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=authority.file))
        with openai.OpenAI(base_url=f"https://{stack.http}/v1", api_key="none", http_client=trusting) as client:
            served = client.models.list().data[0].id
            extra = {"ignore_eos": True}
            whole = client.completions.create(model=served, prompt="Hi", max_tokens=8, temperature=0, extra_body=extra)
            assert whole.usage is not None
            assert whole.usage.completion_tokens == 8
            stream = client.completions.create(
                model=served, prompt="Hi", max_tokens=8, temperature=0, stream=True, extra_body=extra
            )
            assert "".join(chunk.choices[0].text for chunk in stream) == whole.choices[0].text
        check_the_doctor(stack.coordinator, protection)


def check_the_doctor(address: str, protection: Protection) -> None:
    """The doctor asks a protected server as the other commands do."""
    how: dict[str, Any] = {
        "tls_ca": protection.ca,
        "tls_client_cert": protection.client_cert,
        "tls_client_key": protection.client_key,
    }
    rows = check_server(Scope(address=address, token_file=protection.token_file, **how))
    assert [row.name for row in rows if row.is_ok] == ["server", "server.drafter"]
    refused = check_server(Scope(address=address, **how))[0]
    assert "token" in refused.found
    assert "--token-file" in refused.mend
    untrusted = check_server(Scope(address=address, seconds=2))[0]
    assert not untrusted.is_ok


@pytest.mark.parametrize("wrong", ["authority", "expired"])
def test_up_says_at_once_that_the_certificate_is_not_believed(
    protected: tuple[Authority, Protection], tmp_path: Path, wrong: str
) -> None:
    authority, _ = protected
    if wrong == "expired":
        pair, ca, said = authority.issue("late", lifetime=timedelta(days=-1)), authority.file, "expired"
    else:
        pair, ca, said = authority.issue("server2"), Authority(tmp_path, "unknown").file, "CERTIFICATE_VERIFY_FAILED"
    protection = Protection(cert=str(pair.cert), key=str(pair.key), ca=str(ca))
    options = StackOptions(simulate=SIMULATED, draft="none", protection=protection, ready_seconds=60)
    begun = time.monotonic()
    with pytest.raises(SetupError, match=f"no TLS connection to .*{said}"):
        Stack(options).__enter__()
    assert time.monotonic() - begun < 50  # it did not wait for what waiting cannot mend


def test_the_flags_are_the_doors_own() -> None:
    flags = ["--tls-cert", "a", "--tls-key", "b", "--tls-ca", "c", "--token-file", "d"]
    settings = config.load(HttpSettings, "http", flags)
    assert (settings.tls_cert, settings.tls_key, settings.tls_ca, settings.token_file) == ("a", "b", "c", "d")
