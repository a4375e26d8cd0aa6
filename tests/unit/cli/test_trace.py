"""From steps to a Perfetto file and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from minedraft.cli.main import app
from minedraft.cli.trace.perfetto import trace_events
from minedraft.cli.trace.picture import picture
from minedraft.cli.trace.recording import Recording, Service, lane_name
from minedraft.generation import StepKind, TimelineStep
from minedraft.types import StepTiming
from tests.unit.cli.fake_server import FakeService, serving

MS = 1_000_000
SVG = "{http://www.w3.org/2000/svg}"
DRAFTER, VERIFIER = Service(StepKind.DRAFT, "d:1"), Service(StepKind.VERIFY, "v:1")


def step(number: int, service: Service, lane: int, begin: int, end: int, *, trip_ms: int = 1) -> TimelineStep:
    """Milliseconds on the coordinator's clock."""
    timing = StepTiming(0, MS, (end - begin - 1) * MS, begin * MS)
    return TimelineStep(number, service.kind, lane, service.address, number, 4, timing, 8, 3, (end + trip_ms) * MS)


def two_lanes() -> list[TimelineStep]:
    """Both work all the time, but for the beginning and the end: 10 ms a verification, 5 ms a draft step."""
    steps = []
    for round_ in range(6):
        at = 100 + 10 * round_
        steps.append(step(2 * round_ + 1, DRAFTER, round_ % 2, at, at + 5))
        steps.append(step(2 * round_ + 2, VERIFIER, round_ % 2, at + 10, at + 20))
    return steps


def test_shares_of_the_time() -> None:
    found = Recording.of(two_lanes())
    assert found.services == [DRAFTER, VERIFIER]
    assert found.end_ns - found.begin_ns == 70 * MS
    assert found.busy(VERIFIER) == pytest.approx(60 / 70)
    assert found.busy(DRAFTER) == pytest.approx(30 / 70)
    assert found.overlap() == pytest.approx(25 / 70)  # the first draft step was alone
    assert found.wait_ns() == 0
    window = found.within(110 * MS, 150 * MS)
    assert window.busy(VERIFIER) == 1.0
    assert window.overlap() == pytest.approx(0.5)


def test_a_clock_that_is_off_is_noticed() -> None:
    steps = two_lanes()
    ahead = [
        TimelineStep(
            one.number, one.kind, one.lane, one.service, one.step_id, one.items,
            StepTiming(0, MS, one.timing.forward_ns, one.timing.started_unix_ns + 5000 * MS),
            one.draft_tokens, one.accepted_tokens, one.received_unix_ns,
        )
        if one.kind is StepKind.DRAFT else one
        for one in steps
    ]  # fmt: skip
    found = Recording.of(ahead)
    assert found.shifts_ns == {DRAFTER: 4999 * MS}  # what a trip takes cannot be told from a clock
    assert abs(found.begin_ns - Recording.of(steps).begin_ns) <= MS
    behind = [step(1, VERIFIER, 0, 0, 10, trip_ms=3000)]
    assert Recording.of(behind).shifts_ns == {VERIFIER: -3000 * MS}


def test_the_perfetto_file() -> None:
    events = trace_events(Recording.of(two_lanes()))["traceEvents"]
    named = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert named == {1: "drafter d:1", 2: "verifier v:1"}
    bars = [event for event in events if event["ph"] == "X"]
    assert [bar["name"] for bar in bars[:3]] == ["draft A", "verify A", "draft B"]
    assert bars[0]["ts"] == 0
    assert bars[1]["dur"] == 10_000
    assert bars[1]["args"]["accepted_tokens"] == 3
    starts = {event["id"]: event for event in events if event["ph"] == "s"}
    ends = {event["id"]: event for event in events if event["ph"] == "f"}
    assert starts.keys() == ends.keys()
    assert len(starts) == 6
    for number, start in starts.items():
        assert (start["pid"], ends[number]["pid"]) == (1, 2)
        assert start["tid"] == ends[number]["tid"]
        assert start["ts"] <= ends[number]["ts"]
    json.dumps(events)


def test_the_picture() -> None:
    root = ElementTree.fromstring(picture(Recording.of(two_lanes()), "A < B"))  # noqa: S314  # our own
    words = [element.text for element in root.iter(f"{SVG}text")]
    assert "A < B" in words
    assert "busy 86%" in words
    assert "verifier v:1" in words
    assert "verify A" in words
    bars = [element for element in root.iter(f"{SVG}rect") if element.find(f"{SVG}title") is not None]
    assert len(bars) == 12
    assert len({bar.get("fill") for bar in bars}) == 2
    right = max(float(bar.get("x", 0)) + float(bar.get("width", 0)) for bar in bars)
    assert right <= 960 - 150 + 0.1


def test_lanes_have_letters() -> None:
    assert [lane_name(lane) for lane in (0, 1, 25, 26)] == ["A", "B", "Z", "26"]


def test_the_command(tmp_path: Path) -> None:
    service = FakeService(timeline=two_lanes())
    out, svg = tmp_path / "trace.json", tmp_path / "timeline.svg"
    with serving(service) as server:
        flags = ["trace", "--address", server.address, "--last", "-o", str(out), "--picture", str(svg), "--json"]
        done = CliRunner().invoke(app, flags)
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert found["steps"] == 12
        assert found["busy"]["verifier v:1"] == pytest.approx(60 / 70, abs=1e-3)
        assert len(json.loads(out.read_text())["traceEvents"]) > 12
        assert "verify B" in svg.read_text()
        nowhere = CliRunner().invoke(app, ["trace", "--address", server.address, "--last", "-o", str(tmp_path)])
        assert nowhere.exit_code == 2
        assert "cannot be written" in nowhere.stderr
        service.timeline = []
        nothing = CliRunner().invoke(app, ["trace", "--address", server.address, "--seconds", "0.1", "-o", str(out)])
        assert nothing.exit_code == 1
        assert "no steps" in nothing.stderr
