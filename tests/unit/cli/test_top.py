"""`minedraft top`: rates between two looks, for people and for programs."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from rich.console import Console
from typer.testing import CliRunner

from minedraft.cli.main import app
from minedraft.cli.top.sample import Look, sample
from minedraft.cli.top.view import view
from minedraft.generation import Activity, ChoiceInfo, LaneInfo, PeerInfo, SpeculationStats
from minedraft.types import ServiceState
from tests.unit.cli.fake_server import INFO, MODEL, FakeService, serving
from tests.unit.cli.test_trace import VERIFIER, step

OLD = replace(
    INFO,
    activity=Activity(wall_seconds=10.0, overlap_seconds=1.0),
    speculation=SpeculationStats(10, 10, 20, 8, (6, 2), (10, 10), 18),
)
NEW = replace(
    INFO,
    activity=Activity(wall_seconds=12.0, overlap_seconds=2.5),
    speculation=SpeculationStats(30, 30, 80, 44, (22, 12, 10), (30, 30, 20), 74),
    verifiers=(PeerInfo("v:1", True, MODEL, "", ServiceState("x", 16, 5), 1),),
    drafters=(PeerInfo("d:1", False, None, "it knows other tokens", None, 1),),
    lanes=(LaneInfo(0, 3, 27, verifier="v:1"), LaneInfo(1, 2, 9, verifier="v:1", drafter="d:1")),
    choices=(ChoiceInfo(lanes=2, draft_tokens=4, reason="12 % more than 1 lane, K=4"),),
)


def test_a_sample() -> None:
    steps = (step(1, VERIFIER, 0, 0, 600), step(2, VERIFIER, 1, 600, 1400))
    seen = sample(Look(OLD), Look(NEW, steps))
    assert (seen["seconds"], seen["tokens_per_second"]) == (2.0, 28.0)
    assert seen["acceptance_length"] == 2.8
    assert seen["acceptance_by_position"] == [0.8, 0.5, 0.5]
    assert seen["drafts_kept"] == 0.6
    assert seen["overlap"] == 0.75
    assert seen["requests_running"] == 5
    verifier, drafter = seen["services"]
    assert (verifier["busy"], verifier["kv_used"], verifier["sequences"]) == (0.7, 0.75, 5)
    assert (drafter["busy"], drafter["kv_used"], drafter["refusal"]) == (0.0, None, "it knows other tokens")
    assert [lane["rounds_per_second"] for lane in seen["lanes"]] == [10.0, 0.0]
    json.dumps(seen)


def test_the_view() -> None:
    screen = Console(file=io.StringIO(), width=160)
    screen.print(view(sample(Look(OLD), Look(NEW, (step(1, VERIFIER, 0, 0, 1000),)))))
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    for words in ("28.0 tokens/s", "acceptance length 2.80", "80% 50% 50%", "50%", "it knows other tokens", "K=4"):
        assert words in shown
    empty = Console(file=io.StringIO(), width=160)
    empty.print(view(sample(Look(INFO), Look(INFO))))
    assert "acceptance length -" in empty.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command(as_json: bool) -> None:
    service = FakeService(activity_step=0.5)
    with serving(service) as server:
        flags = ["top", "--once", "--seconds", "0.1", "--address", server.address, *(["--json"] if as_json else [])]
        done = CliRunner().invoke(app, flags)
    assert done.exit_code == 0, done.output
    if as_json:
        assert json.loads(done.stdout)["model"] == "toy"
    else:
        assert "toy" in done.stdout
