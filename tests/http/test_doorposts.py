"""What stands beside the door: API keys, health, models, metrics, the warning about open doors."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

import minedraft.http.keys as keys_module
from minedraft.config import HttpSettings
from minedraft.errors import PeerUnavailable, SetupError
from minedraft.http.app import Door
from minedraft.http.keys import ApiKeys
from minedraft.http.service import HttpService
from tests.http.fake_coordinator import TARGET, FakeCoordinator, asking, door
from tests.http.serving import Running

ASK = {"prompt": "Hi", "max_tokens": 4}


def bearing(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("first-key\n\n  sch\u00f6ner-schl\u00fcssel  \n", encoding="utf-8")
    return path


class TestKeys:
    async def test_open_the_door(self, key_file: Path) -> None:
        async with asking(door(FakeCoordinator(), keys=ApiKeys(key_file))) as client:
            assert (await client.post("/v1/completions", json=ASK, headers=bearing("first-key"))).status_code == 200
            other = {b"authorization": "bearer sch\u00f6ner-schl\u00fcssel".encode()}
            assert (await client.get("/v1/models", headers=other)).status_code == 200

    @pytest.mark.parametrize(
        "headers",
        [{}, bearing(""), bearing("first-ke"), bearing("first-key2"), bearing("\u00ff"), {"Authorization": "first-key"},
         {"Authorization": "Basic first-key"}, {"Authorization": ""}],
    )  # fmt: skip
    @pytest.mark.parametrize("path", ["/v1/models", "/v1/nothing", "/v1/completions"])
    async def test_nothing_else_does(self, key_file: Path, headers: dict[str, str], path: str) -> None:
        with capture_logs() as logs:
            async with asking(door(FakeCoordinator(), keys=ApiKeys(key_file))) as client:
                encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
                answer = await client.request("POST" if path.endswith("ions") else "GET", path, headers=encoded)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "first-ke" not in str(logs)

    async def test_health_and_metrics_need_none(self, key_file: Path) -> None:
        async with asking(door(FakeCoordinator(), keys=ApiKeys(key_file))) as client:
            for path in ("/health", "/v1/health", "/metrics"):
                assert (await client.get(path)).status_code == 200

    async def test_are_read_again_when_the_file_changes(self, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(keys_module, "CHECK_SECONDS", 0.0)
        keys = ApiKeys(key_file)

        def opens(key: str) -> bool:
            try:
                keys.check(f"Bearer {key}")
            except Exception:
                return False
            return True

        fresh = key_file.with_name("fresh")
        fresh.write_text("second-key\n")
        os.replace(fresh, key_file)
        assert (opens("second-key"), opens("first-key")) == (True, False)
        key_file.write_text("")
        assert opens("second-key")
        key_file.unlink()
        assert opens("second-key")

    def test_a_file_without_keys_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "empty").write_text("\n \n")
        with pytest.raises(SetupError, match="holds no key"):
            ApiKeys(tmp_path / "empty")
        with pytest.raises(SetupError, match="cannot be read"):
            ApiKeys(tmp_path / "missing")

    async def test_the_real_client(self, here: Running, key_file: Path) -> None:
        settings = HttpSettings(
            listen="127.0.0.1:0", coordinator=here.cluster.client.address, api_key_file=str(key_file)
        )
        service = HttpService(settings)
        address = await service.start()
        try:
            async with openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="first-key") as right:
                assert (await right.completions.create(model="target", prompt="Hi", max_tokens=2)).choices
            async with openai.AsyncOpenAI(base_url=f"http://{address}/v1", api_key="wrong") as wrong:
                with pytest.raises(openai.AuthenticationError) as refused:
                    await wrong.completions.create(model="target", prompt="Hi")
                assert refused.value.code == "invalid_api_key"
        finally:
            await service.stop()


class TestAnOpenDoor:
    @pytest.mark.parametrize(("listen", "guarded", "loud"), [
        ("127.0.0.1:0", False, False), ("0.0.0.0:0", False, True), ("0.0.0.0:0", True, False),
        ("localhost:0", False, False),
    ])  # fmt: skip
    async def test_is_told_loudly(self, key_file: Path, listen: str, guarded: bool, loud: bool) -> None:
        service = HttpService(HttpSettings(listen=listen, api_key_file=str(key_file) if guarded else ""))
        with capture_logs() as logs:
            address = await service.start()
            await service.stop()
        assert address.startswith(listen.rpartition(":")[0] + ":")
        assert any("ANYONE" in line["event"] for line in logs) == loud


class TestHealth:
    async def test_is_that_of_the_services_behind(self) -> None:
        upstream = FakeCoordinator()
        async with asking(door(upstream)) as client:
            for path in ("/health", "/v1/health"):
                assert (await client.get(path)).json() == {"status": "ok"}
            upstream.info = replace(upstream.info, verifiers=(replace(upstream.info.verifier, connected=False),))
            answer = await client.get("/health")
            assert answer.status_code == 503
            assert "verifier" in answer.json()["error"]["message"]
            upstream.error = PeerUnavailable("no server can be reached")
            assert (await client.get("/health")).status_code == 503

    def test_over_real_services(self, here: Running) -> None:
        assert httpx.get(f"{here.url}/health").status_code == 200

    async def test_without_a_coordinator(self) -> None:
        service = HttpService(HttpSettings(listen="127.0.0.1:0", coordinator="127.0.0.1:9"))
        address = await service.start()
        try:
            async with httpx.AsyncClient(base_url=f"http://{address}") as client:
                for path in ("/health", "/v1/models"):
                    answer = await client.get(path)
                    assert answer.status_code == 503
                    assert answer.json()["error"]["code"] == "service_unavailable"
        finally:
            await service.stop()


class TestModels:
    async def test_have_the_preferred_name_first(self) -> None:
        async with asking(door(FakeCoordinator(), model_name="mine")) as client:
            listed = (await client.get("/v1/models")).json()
            assert [card["id"] for card in listed["data"]] == ["mine", "toy"]
            assert listed["data"][0]["max_model_len"] == 512
            assert (await client.get("/v1/models/mine")).json()["object"] == "model"
            for name in ("mine", "toy"):
                answer = await client.post("/v1/completions", json=ASK | {"model": name})
                assert answer.json()["model"] == name

    async def test_another_tokenizer_is_not_believed(self) -> None:
        upstream = FakeCoordinator()
        upstream.info = replace(upstream.info, target=replace(TARGET, tokenizer_fingerprint="other"))
        with capture_logs() as logs:
            async with asking(door(upstream)) as client:
                answer = await client.post("/v1/completions", json=ASK | {"logprobs": 1})
        assert answer.json()["choices"][0]["logprobs"]["tokens"][0] == "token_id:65"
        assert any("not the target's" in line["event"] for line in logs)


class TestWithoutATokenizer:
    async def test_logprobs_name_ids_and_tokens_cannot_be_echoed(self) -> None:
        async with asking(Door(HttpSettings(), FakeCoordinator())) as client:
            messages = [{"role": "user", "content": "Hi"}]
            body: dict[str, Any] = {"messages": messages, "logprobs": True, "top_logprobs": 1, "max_tokens": 2}
            answer = (await client.post("/v1/chat/completions", json=body)).json()
            first = answer["choices"][0]["logprobs"]["content"][0]
            assert (first["token"], first["bytes"]) == ("token_id:65", None)
            assert [entry["token"] for entry in first["top_logprobs"]] == ["token_id:70"]
            refused = await client.post("/v1/completions", json={"prompt": [65], "echo": True})
            assert refused.status_code == 400
            assert refused.json()["error"]["param"] == "echo"


class TestMetrics:
    async def test_count_requests_tokens_and_times(self) -> None:
        upstream = FakeCoordinator()
        async with asking(door(upstream)) as client:
            await client.post("/v1/completions", json=ASK | {"n": 2})
            await client.post("/v1/completions", json=ASK | {"temperature": -1})
            await client.post("/v1/chat/completions", json={"messages": [], "stream": True})
            await client.get("/nowhere/at/all")
            await client.get("/v1/models/toy")
            upstream.late_error = PeerUnavailable("gone")
            await client.post("/v1/completions", json=ASK | {"stream": True})
            text = (await client.get("/metrics")).text
        found = {
            (sample.name.removeprefix("minedraft_http_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        assert found["requests_total", "/v1/completions", "200"] == 1
        assert found["requests_total", "/v1/completions", "400"] == 1
        assert found["requests_total", "/v1/completions", "503"] == 1  # the stream that broke
        assert found["requests_total", "/v1/chat/completions", "400"] == 1
        assert found["requests_total", "other", "404"] == 1
        assert found["requests_total", "/v1/models/{model:path}", "200"] == 1
        assert found[("requests_in_flight",)] == 1  # /metrics itself
        assert found["generations_total", "length"] == 2
        assert found["generations_total", "unavailable"] == 1
        assert found["generations_total", "refused"] == 2
        assert found[("generation_tokens_total",)] == 2 * 4 + 1
        assert found[("prompt_tokens_total",)] == 2 * 2
        assert found[("time_to_first_token_seconds_count",)] == 3
        assert found[("inter_token_latency_seconds_count",)] == 2 * 3
        assert found["request_latency_seconds_count", "/v1/completions"] == 3

    def test_the_metrics_endpoint_of_all_services_has_them_too(self, here: Running) -> None:
        registry = CollectorRegistry()
        for collector in here.door.collectors():
            registry.register(collector)
        assert b"minedraft_http_requests_in_flight" in generate_latest(registry)

    async def test_two_doors_do_not_share_them(self) -> None:
        one, other = door(FakeCoordinator()), door(FakeCoordinator())
        async with asking(one) as client:
            await client.post("/v1/completions", json=ASK)
        assert b'route="/v1/completions"' in one.metrics.text()
        assert b'route="/v1/completions"' not in other.metrics.text()
