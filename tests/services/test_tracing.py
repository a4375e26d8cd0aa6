"""Spans of a request from three real services, taken by a collector over real OTLP."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1.trace_pb2 import Span
from typer.testing import CliRunner

from minedraft.cli.main import app
from minedraft.config import CoordinatorSettings
from minedraft.errors import SetupError
from minedraft.generation import StepKind
from minedraft.telemetry.opening import tracer_of
from minedraft.types import SamplingParams
from tests.cluster import cluster
from tests.models import tiny_llama

SAMPLING = SamplingParams(temperature=0.0, max_new_tokens=24, ignore_eos=True)
PROMPT = list(range(5, 25))
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps (service, span). Written by the server's thread."""

    spans: list[tuple[str, Span]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        with self.lock:
            for resource in request.resource_spans:
                names = {item.key: item.value.string_value for item in resource.resource.attributes}
                self.spans += [(names["service.name"], span) for scope in resource.scope_spans for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture
def collector() -> Iterator[tuple[Collector, str]]:
    servicer = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"http://127.0.0.1:{port}"
    server.stop(None)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("models")
    return tiny_llama(folder / "target"), tiny_llama(folder / "draft", noise=0.1)


async def test_a_request_is_followed_through_three_services(
    models: tuple[Path, Path], collector: tuple[Collector, str]
) -> None:
    kept, endpoint = collector
    headers = (("traceparent", f"00-{TRACE}-{PARENT}-01"),)
    traced: dict[str, Any] = {"otlp": endpoint, "trace_sample": 0.0}  # the caller's word alone counts
    async with cluster(*models, model=traced, **traced) as here:
        await here.client.wait_ready(20, drafter=True)
        await here.token_ids(PROMPT, SAMPLING)
        await here.token_ids(PROMPT, SAMPLING, request_id="followed", trace_headers=headers)
    assert {f"{int.from_bytes(span.trace_id):032x}" for _, span in kept.spans} == {TRACE}
    by_id = {span.span_id: (service, span) for service, span in kept.spans}
    (request,) = [span for _, span in kept.spans if span.name == "generate"]
    assert request.parent_span_id.hex() == PARENT
    rounds = [span for _, span in kept.spans if span.name == "round"]
    assert len(rounds) > 3
    for name, service, parent in (
        ("queue", "coordinator", "generate"),
        ("round", "coordinator", "generate"),
        ("draft", "drafter", "round"),
        ("verify", "verifier", "round"),
    ):
        found = [(where, span) for where, span in kept.spans if span.name == name]
        assert found, name
        for where, span in found:
            assert where == service
            assert by_id[span.parent_span_id][1].name == parent
            assert span.start_time_unix_nano <= span.end_time_unix_nano
    values = {item.key: item.value for item in request.attributes}
    assert values["minedraft.request_id"].string_value == "followed"
    assert values["minedraft.ended"].string_value == "length"
    assert values["minedraft.completion_tokens"].int_value == 24
    verified = [span for _, span in kept.spans if span.name == "verify"]
    assert len(verified) == len(rounds)
    allowed = {"request_id", "ended", "prompt_tokens", "completion_tokens", "lane", "draft_tokens", "accepted_tokens"}
    allowed |= {"step.items", "step.queue_ms", "step.forward_ms", "tail_tokens"}
    seen = {item.key.removeprefix("minedraft.") for _, span in kept.spans for item in span.attributes}
    assert seen == allowed  # and so no text, no tokens, no credentials


async def test_a_share_of_the_requests_is_traced_unasked(
    models: tuple[Path, Path], collector: tuple[Collector, str]
) -> None:
    kept, endpoint = collector
    async with cluster(models[0], None, otlp=endpoint, trace_sample=1.0) as here:
        await here.client.wait_ready(20)
        await asyncio.gather(*(here.token_ids(PROMPT, SAMPLING) for _ in range(3)))
        await here.token_ids(PROMPT, SAMPLING, trace_headers=(("traceparent", f"00-{TRACE}-{PARENT}-00"),))
    assert sum(span.name == "generate" for _, span in kept.spans) == 3  # the fourth's caller said no


async def test_the_timeline_of_real_services(models: tuple[Path, Path], tmp_path: Path) -> None:
    async with cluster(*models) as here:
        await here.client.wait_ready(20, drafter=True)
        await asyncio.gather(*(here.token_ids(PROMPT, SAMPLING) for _ in range(4)))
        page = await here.client.timeline()
        info = await here.client.server_info()
        assert page.newest == len(page.steps) == info.activity.verifications + info.activity.drafts
        kinds = {kind: [step for step in page.steps if step.kind is kind] for kind in StepKind}
        assert {step.service for step in kinds[StepKind.DRAFT]} == {info.drafter.address}
        assert sum(step.accepted_tokens for step in kinds[StepKind.VERIFY]) == info.speculation.accepted_tokens
        assert all(step.started_ns < step.ended_ns <= step.received_unix_ns for step in page.steps)
        rest = await here.client.timeline(page.newest - 3, limit=2)
        assert [step.number for step in rest.steps] == [page.newest - 2, page.newest - 1]
        out = tmp_path / "trace.json"
        flags = ["trace", "--last", "--address", here.client.address, "-o", str(out), "--json"]
        done = await asyncio.to_thread(CliRunner().invoke, app, flags)
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["steps"] == page.newest
        done = await asyncio.to_thread(
            CliRunner().invoke, app, ["top", "--once", "--json", "--seconds", "0.2", "--address", here.client.address]
        )
        assert json.loads(done.stdout)["requests_finished"] == 4


@pytest.mark.parametrize("endpoint", ["127.0.0.1:4317", "ftp://here", "http://"])
def test_an_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(SetupError, match="--otlp"):
        tracer_of(CoordinatorSettings(otlp=endpoint), "coordinator", "x")


def test_without_an_endpoint_nothing_is_traced() -> None:
    assert tracer_of(CoordinatorSettings(), "coordinator", "x") is None
