"""The loops of a bench, its report and its table."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

from minedraft.cli.bench import load, prompts
from minedraft.cli.bench.load import Load, Sample, Trace
from minedraft.cli.bench.report import gaps, percentiles, report
from minedraft.cli.bench.table import table
from minedraft.cli.main import app
from minedraft.client import AsyncClient
from minedraft.errors import Overloaded, SetupError
from minedraft.generation import Activity, FinishReason, GenerateRequest, Output, SpeculationStats, Text, Usage
from minedraft.types import SamplingParams
from tests.unit.cli.fake_server import INFO, FakeService, serving

REQUEST = GenerateRequest(Text("Hi"), SamplingParams())
FIELDS = {
    "completed", "failed", "errors", "output_tokens", "seconds", "tokens_per_second", "tokens_per_second_per_device",
    "ttft_ms", "itl_ms", "latency_ms", "acceptance_length", "acceptance_by_position", "rounds", "draft_tokens",
    "accepted_tokens", "verifier_busy", "drafter_busy", "overlap", "verifier_engine_busy", "drafter_engine_busy",
    "verifications", "seconds_per_verification", "steady",
}  # fmt: skip


def final(stats: SpeculationStats) -> Output:
    return Output("r", finish_reason=FinishReason.LENGTH, usage=Usage(1, 1), speculation=stats)


def sample(when: float, wall: float, verifications: int) -> Sample:
    """A server whose verifier computes for 3/4 and whose drafter for 1/2 of the time."""
    activity = Activity(wall, 0.75 * wall, 0.5 * wall, 0.8 * wall, 0.6 * wall, 0.25 * wall, verifications, 5)
    return Sample(when, replace(INFO, activity=activity))


def recorded() -> Load:
    """Two finished requests and one failed, over ten seconds."""
    first = SpeculationStats(4, 4, 8, 6, (4, 2), (4, 4), 10)
    second = SpeculationStats(6, 3, 9, 2, (2, 0, 0), (3, 3, 3), 8)
    traces = (
        Trace(100.0, [(100.5, 1), (101.5, 4)], 102.0, final(first)),
        Trace(101.0, [(102.0, 2), (109.0, 7)], 110.0, final(second)),
        Trace(100.0, [(103.0, 1)], 104.0, None, Overloaded("the queue is full")),
    )
    steady = (sample(102.0, 5.0, 20), sample(109.0, 9.0, 100))
    return Load(traces, sample(99.9, 3.0, 10), sample(110.1, 13.0, 110), steady)


class TestReport:
    def test_fields(self) -> None:
        fields = report(recorded())
        assert set(fields) == FIELDS
        assert json.loads(json.dumps(fields)) == fields
        assert (fields["completed"], fields["failed"], fields["errors"]) == (2, 1, {"the queue is full": 1})
        assert (fields["output_tokens"], fields["seconds"], fields["tokens_per_second"]) == (15, 10.0, 1.5)
        assert fields["acceptance_length"] == 1.8
        assert fields["acceptance_by_position"] == [0.8571, 0.2857, 0.0]
        assert (fields["rounds"], fields["draft_tokens"], fields["accepted_tokens"]) == (10, 17, 8)
        assert (fields["verifier_busy"], fields["drafter_busy"], fields["overlap"]) == (0.75, 0.5, 0.25)
        assert (fields["verifier_engine_busy"], fields["drafter_engine_busy"]) == (0.8, 0.6)
        assert (fields["verifications"], fields["seconds_per_verification"]) == (100, 0.1)
        assert fields["ttft_ms"]["p50"] == 750.0
        assert fields["latency_ms"]["p50"] == 5500.0
        # 4 gaps of 250 ms and 7 of 1000 ms
        assert fields["itl_ms"] == {"p50": 1000.0, "p95": 1000.0, "p99": 1000.0}

    def test_the_steady_part_has_its_own_interval(self) -> None:
        steady = report(recorded())["steady"]
        assert (steady["output_tokens"], steady["seconds"], steady["tokens_per_second"]) == (8, 7.0, 1.1429)
        assert (steady["verifications"], steady["seconds_per_verification"]) == (80, 0.05)
        assert steady["verifier_busy"] == 0.75

    def test_devices_share_the_tokens(self) -> None:
        assert report(recorded(), devices=3)["tokens_per_second_per_device"] == 0.5

    def test_nothing_completed(self) -> None:
        failed = Trace(1.0, [], 2.0, None, Overloaded("full"))
        fields = report(Load((failed,), sample(0, 1, 5), sample(3, 1, 5), None))
        assert fields["completed"] == 0
        assert fields["steady"] is None
        assert fields["acceptance_length"] is None
        assert fields["seconds_per_verification"] is None
        assert fields["verifier_busy"] is None
        assert fields["ttft_ms"] == {"p50": None, "p95": None, "p99": None}
        assert "-" in shown(fields)

    def test_table(self) -> None:
        text = shown(report(recorded()))
        for words in ("1.5", "75.0%", "85.7% 28.6% 0.0%", "100.00 ms", "50.00 ms", "2 / 1", "toy with toy-draft"):
            assert words in text

    @given(st.lists(st.floats(0, 1e4), min_size=1, max_size=50))
    def test_percentiles_are_in_order_and_in_range(self, seconds: list[float]) -> None:
        found = percentiles(seconds)
        assert 1000 * min(seconds) - 1e-3 <= found["p50"] <= found["p95"] <= found["p99"] <= 1000 * max(seconds) + 1e-3

    def test_percentiles_interpolate(self) -> None:
        assert percentiles(np.arange(101) / 1000) == {"p50": 50.0, "p95": 95.0, "p99": 99.0}
        assert percentiles([0.0, 0.01]) == {"p50": 5.0, "p95": 9.5, "p99": 9.9}

    @given(st.lists(st.tuples(st.floats(0, 10), st.integers(1, 9)), max_size=20))
    def test_gaps_add_up_to_the_time_after_the_first_piece(self, steps: list[tuple[float, int]]) -> None:
        now, pieces = 5.0, []
        for pause, count in steps:
            now += pause
            pieces.append((now, count))
        found = gaps(pieces)
        assert len(found) == sum(count for _, count in pieces[1:])
        assert sum(found) == pytest.approx(pieces[-1][0] - pieces[0][0] if pieces else 0, abs=1e-9)


def shown(fields: dict[str, object]) -> str:
    settings = {
        "target_model": "toy", "drafter_model": "toy-draft", "lanes": 2, "draft_tokens": 4, "concurrency": 3,
        "rate": None,
    }  # fmt: skip
    console = Console(width=160, file=io.StringIO(), record=True)
    console.print(table({"settings": settings, **fields}))
    return console.export_text()


class TestLoad:
    async def test_keeps_as_many_in_flight_as_asked(self) -> None:
        with serving(FakeService(delay=0.01)) as here:
            async with AsyncClient(here.address) as client:
                ended: list[Trace] = []
                made = await load.run(client, [REQUEST] * 20, 4, ended.append)
        assert here.service.most_running == 4
        assert len(here.service.requests) == len(made.traces) == len(ended) == 20
        assert all(trace.tokens == 3 and len(trace.pieces) == 2 for trace in made.traces)
        assert made.steady is not None
        begin, end = made.steady
        assert made.before.when < begin.when < end.when <= made.after.when
        assert max(trace.pieces[0][0] for trace in made.traces[:4]) <= begin.when

    async def test_fewer_requests_than_asked_in_flight_have_no_steady_part(self) -> None:
        with serving() as here:
            async with AsyncClient(here.address) as client:
                made = await load.run(client, [REQUEST] * 2, 4, lambda _: None)
        assert made.steady is None
        assert len(made.traces) == 2

    async def test_failures_are_recorded_and_the_loop_goes_on(self) -> None:
        service = FakeService(refusal=(grpc.StatusCode.RESOURCE_EXHAUSTED, "full"), refuse_from=3)
        with serving(service) as here:
            async with AsyncClient(here.address) as client:
                made = await load.run(client, [REQUEST] * 8, 2, lambda _: None)
        assert [trace.error is None for trace in made.traces].count(True) == 3
        assert [str(trace.error) for trace in made.traces if trace.error] == ["full"] * 5

    async def test_requests_arrive_whatever_the_server_does(self) -> None:
        with serving(FakeService(delay=0.2)) as here:
            async with AsyncClient(here.address) as client:
                ended: list[Trace] = []
                made = await load.arrive(client, [REQUEST] * 5, [0.0, 0.0, 0.01, 0.02, 0.03], ended.append)
        assert here.service.most_running == 5
        assert len(ended) == 5
        assert all(trace.error is None and trace.tokens == 3 for trace in made.traces)
        sent = [trace.sent for trace in made.traces]
        assert sent == sorted(sent)
        assert sent[-1] - sent[0] >= 0.03
        assert made.steady is None

    async def test_an_open_loop_goes_on_after_failures(self) -> None:
        service = FakeService(refusal=(grpc.StatusCode.RESOURCE_EXHAUSTED, "full"), refuse_from=1)
        with serving(service) as here:
            async with AsyncClient(here.address) as client:
                made = await load.arrive(client, [REQUEST] * 3, [0.0, 0.05, 0.1], lambda _: None)
        assert [trace.error is None for trace in made.traces] == [True, False, False]

    @given(st.integers(1, 50), st.floats(0.1, 1e3), st.integers(0, 9))
    def test_moments_of_arrival_rise_from_zero(self, count: int, rate: float, seed: int) -> None:
        moments = load.poisson(count, rate, seed)
        assert len(moments) == count
        assert moments[0] == 0.0
        assert moments == sorted(moments) == load.poisson(count, rate, seed)

    def test_arrivals_are_a_poisson_process(self) -> None:
        """Gaps of an exponential law: its mean, its deviation, and as many gaps under the mean as it has."""
        gaps = np.diff(load.poisson(20_001, 4.0, 1))
        assert gaps.mean() == pytest.approx(0.25, rel=0.03)
        assert gaps.std() == pytest.approx(0.25, rel=0.03)
        assert (gaps < 0.25).mean() == pytest.approx(1 - np.exp(-1), abs=0.01)

    async def test_warm_up(self) -> None:
        with serving() as here:
            async with AsyncClient(here.address) as client:
                await load.warm_up(client, [REQUEST] * 5, 2)
                await load.warm_up(client, [], 2)
        assert len(here.service.requests) == 5


class TestPrompts:
    def test_synthetic_prompts_are_different_and_always_the_same(self) -> None:
        made = prompts.synthetic(300)
        assert len(set(made)) == 300
        assert prompts.synthetic(10) == made[:10]

    def test_from_file(self, tmp_path: Path) -> None:
        path = tmp_path / "prompts.jsonl"
        path.write_text('{"prompt": "a", "more": 1}\n\n{"prompt": "ä"}\n', encoding="utf-8")
        assert prompts.from_file(path) == ["a", "ä"]
        assert prompts.cycled(["a", "b"], 5) == ["a", "b", "a", "b", "a"]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ('{"prompt": "a"}\nno', "line 2 is not JSON"),
            ('{"text": "a"}', "line 1 has no text"),
            ('["a"]', "line 1 has no text"),
            ('{"prompt": ""}', "line 1 has no text"),
            ("\n", "has no prompts"),
        ],
    )
    def test_mistakes_name_the_line(self, tmp_path: Path, text: str, words: str) -> None:
        path = tmp_path / "prompts.jsonl"
        path.write_text(text)
        with pytest.raises(SetupError, match=words):
            prompts.from_file(path)

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(SetupError, match="cannot be read"):
            prompts.from_file(tmp_path / "none.jsonl")


class TestCommand:
    def test_json_against_a_running_server(self, tmp_path: Path) -> None:
        (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
        given = [
            "--concurrency",
            "2",
            "--requests",
            "6",
            "--warmup",
            "1",
            "--max-new-tokens",
            "5",
            "--ignore-eos",
            "--raw",
            "--seed",
            "10",
            "--json",
        ]
        with serving(FakeService(activity_step=1.0, delay=0.005)) as here:
            result = CliRunner().invoke(
                app, ["bench", "--address", here.address, "--prompts", str(tmp_path / "p.jsonl"), *given]
            )
        assert result.exit_code == 0, result.output
        fields = json.loads(result.stdout)
        assert set(fields) == FIELDS | {"settings"}
        assert (fields["completed"], fields["failed"], fields["output_tokens"]) == (6, 0, 18)
        settings = fields["settings"]
        assert settings["address"] == here.address
        assert (settings["lanes"], settings["draft_tokens"], settings["target_model"]) == (2, 4, "toy")
        assert (settings["concurrency"], settings["requests"], settings["warmup"]) == (2, 6, 1)
        assert settings["machine"]["cores"] >= 1
        assert settings["rate"] is None
        requests = here.service.requests
        assert [request.prompt for request in requests] == [Text(text) for text in "abababa"]
        assert [request.sampling.seed for request in requests] == list(range(10, 17))
        assert all(request.sampling.ignore_eos and request.sampling.max_new_tokens == 5 for request in requests)

    def test_arrivals_at_a_rate(self) -> None:
        given = ["--rate", "100", "--requests", "6", "--seed", "3", "--devices", "4", "--json"]
        with serving(FakeService(activity_step=1.0, delay=0.005)) as here:
            result = CliRunner().invoke(app, ["bench", "--address", here.address, *given])
        assert result.exit_code == 0, result.output
        fields = json.loads(result.stdout)
        settings = fields["settings"]
        assert (settings["rate"], settings["concurrency"], settings["devices"]) == (100.0, None, 4)
        assert fields["completed"] == 6
        assert fields["steady"] is None
        arrivals = load.poisson(6, 100.0, 3)
        assert fields["seconds"] >= arrivals[-1]
        assert fields["tokens_per_second_per_device"] == pytest.approx(fields["tokens_per_second"] / 4, abs=1e-3)

    def test_a_table_for_people(self) -> None:
        with serving(FakeService(activity_step=1.0)) as here:
            result = CliRunner().invoke(app, ["bench", "--address", here.address, "--concurrency", "1"])
        assert result.exit_code == 0
        assert "tokens a second" in result.stdout

    def test_when_nothing_completes_the_exit_code_is_1(self) -> None:
        with serving(FakeService(refusal=(grpc.StatusCode.INVALID_ARGUMENT, "input: too long"))) as here:
            result = CliRunner().invoke(app, ["bench", "--address", here.address, "--requests", "3", "--json"])
        assert result.exit_code == 1
        assert json.loads(result.stdout)["failed"] == 3
        assert "3 failed: input: too long" in result.stderr

    def test_an_address_and_a_simulation_exclude_each_other(self) -> None:
        result = CliRunner().invoke(app, ["bench", "--address", "a:1", "--simulate", "x"])
        assert result.exit_code == 2
        assert "--address and --simulate" in result.stderr
