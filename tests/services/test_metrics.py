"""Prometheus metrics of all three services, read over HTTP while requests run."""

from __future__ import annotations

import asyncio
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from minedraft.config import CoordinatorSettings
from minedraft.errors import InvalidRequest, Overloaded, SetupError
from minedraft.process import Service
from minedraft.telemetry.metrics import MetricsEndpoint
from minedraft.types import SamplingParams
from tests.cluster import cluster
from tests.models import tiny_llama

SAMPLING = SamplingParams(temperature=0.0, max_new_tokens=30, ignore_eos=True)
PROMPTS = [[65 + i, 66, 67] for i in range(4)]
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(address: str) -> Samples:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:  # loopback
        text = answer.read().decode()
    return {
        (sample.name.removeprefix("minedraft_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def read(service: Service) -> Samples:
    endpoint = MetricsEndpoint("127.0.0.1:0", service.collectors())
    try:
        return await asyncio.to_thread(scrape, endpoint.address)
    finally:
        endpoint.stop()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return tiny_llama(folder / "target"), tiny_llama(folder / "draft", noise=0.1)


async def test_all_three_services_say_what_they_did(models: tuple[Path, Path], tmp_path: Path) -> None:
    async with cluster(
        *models, model={"shm_dir": tmp_path}, drafter={"draft_law": "dense"}, channel="shm", log_level="warning"
    ) as here:
        await here.client.wait_ready(20, drafter=True)
        here.coordinator.collectors()  # from here on waits are observed
        await asyncio.gather(*(here.token_ids(prompt, SAMPLING) for prompt in PROMPTS))
        info = await here.client.server_info()
        seen = await read(here.coordinator)
        assert here.drafter is not None
        verifier, drafter = await read(here.verifier), await read(here.drafter)
    stats = info.speculation
    assert seen["spec_decode_num_draft_tokens_total", ()] == stats.draft_tokens > 0
    assert seen["spec_decode_num_accepted_tokens_total", ()] == stats.accepted_tokens > 0
    places = [v for (name, _), v in seen.items() if name == "spec_decode_num_accepted_tokens_per_pos_total"]
    assert places == list(stats.accepted_by_position)
    assert seen["generation_tokens_total", ()] >= 30 * len(PROMPTS)
    assert seen["requests_total", (("ended", "finished"),)] == len(PROMPTS)
    assert seen["num_requests_waiting", ()] == 0
    assert seen["queue_size", ()] == info.limits.queue_size
    at = info.drafter.address
    assert seen["channel_info", (("drafter", at), ("kind", "shm"))] == 1
    assert seen["peer_up", (("address", at), ("service", "drafter"))] == 1
    assert seen["peer_up", (("address", info.verifier.address), ("service", "verifier"))] == 1
    assert seen["chosen", (("auto", "false"), ("setting", "draft_tokens"), ("verifier", "0"))] == 4
    assert seen["request_latency_seconds_count", ()] == len(PROMPTS)
    assert seen["time_to_first_token_seconds_count", ()] == len(PROMPTS)
    assert seen["inter_token_latency_seconds_count", ()] >= len(PROMPTS)
    assert seen["busy_seconds_total", (("service", "verifier"),)] > 0
    for one, service in ((verifier, "verifier"), (drafter, "drafter")):
        assert one["steps_total", ()] >= seen["steps_total", (("service", service),)] > 0
        assert one["busy_seconds_total", ()] > one["forward_seconds_total", ()] > 0
        assert one["kv_blocks", ()] == 512
        assert one["kv_blocks_free", ()] > 400


async def test_refusals_are_counted_by_their_status(models: tuple[Path, Path]) -> None:
    async with cluster(models[0], None, lanes=1, lane_size=1, queue_size=0, log_level="warning") as here:
        await here.client.wait_ready(20)
        assert ("requests_failed_total", (("code", "RESOURCE_EXHAUSTED"),)) in await read(here.coordinator)
        long = replace(SAMPLING, max_new_tokens=200)
        answers = await asyncio.gather(*(here.token_ids(PROMPTS[0], long) for _ in range(3)), return_exceptions=True)
        with pytest.raises(InvalidRequest):
            await here.token_ids([], SAMPLING)
        seen = await read(here.coordinator)
    assert sum(isinstance(answer, Overloaded) for answer in answers) == 2
    assert seen["requests_failed_total", (("code", "RESOURCE_EXHAUSTED"),)] == 2
    assert seen["requests_failed_total", (("code", "INVALID_ARGUMENT"),)] == 1
    assert seen["requests_failed_total", (("code", "INTERNAL"),)] == 0
    assert seen["request_latency_seconds_count", ()] == 4


async def test_a_coordinator_without_a_verifier_has_metrics_too() -> None:
    from coordinator.__main__ import build

    service = build(CoordinatorSettings(listen="127.0.0.1:0", verifier="127.0.0.1:1", drafter="none"))
    await service.start()
    try:
        assert ("request_latency_seconds_count", ()) in await read(service)
    finally:
        await service.stop()


def test_a_busy_port_is_a_setup_error() -> None:
    endpoint = MetricsEndpoint("127.0.0.1:0", [])
    try:
        with pytest.raises(SetupError, match="--metrics"):
            MetricsEndpoint(endpoint.address, [])
    finally:
        endpoint.stop()


def test_the_flag_takes_an_address_or_nothing() -> None:
    assert CoordinatorSettings(metrics="").metrics == ""
    assert CoordinatorSettings(metrics="127.0.0.1:9000").metrics == "127.0.0.1:9000"
    with pytest.raises(ValueError, match="HOST:PORT"):
        CoordinatorSettings(metrics="9000")
