"""`minedraft doctor`: one real run on this machine, and what it makes of things that are wrong."""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from typer.testing import CliRunner, Result

from minedraft.channel import trial
from minedraft.channel.shm import ShmReceiver
from minedraft.channel.trial import LARGE_BYTES, Wire
from minedraft.cli.doctor import attention, channels, command, gpus, helper, machine, models, server
from minedraft.cli.doctor.asked import asked_for, missing
from minedraft.cli.doctor.child import Child, ChildLost
from minedraft.cli.doctor.examination import examine, guarded
from minedraft.cli.doctor.finding import Finding, Scope, broken, failed, not_here, ok
from minedraft.cli.doctor.finding import Result as Found
from minedraft.cli.doctor.helper import Helper
from minedraft.cli.doctor.table import table
from minedraft.cli.main import app
from minedraft.errors import SetupError
from minedraft.model.flash import FlashBackend
from minedraft.types import ChannelKind, PayloadRef
from tests.models import tiny_llama
from tests.unit.cli.fake_server import INFO, FakeService, serving
from tests.unit.engine.flash_double import flash_attn_varlen_func

CPU = torch.device("cpu")
HANGS = ("-c", "import time; time.sleep(60)")
DIES = ("-c", "import os, sys; sys.stderr.write('first\\nboom\\n'); sys.stderr.flush(); os.abort()")
ECHOES = (
    "-c",
    "import json, sys, time\n"
    "for line in sys.stdin:\n"
    "    told = json.loads(line)\n"
    "    time.sleep(60 if told['check'] == 'slow' else 0)\n"
    "    row = dict(name=told['check'], title='t', result='ok', found='f', mend='', values={})\n"
    "    print(json.dumps({'findings': [row]}), flush=True)\n",
)
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments], env={"COLUMNS": "160"})


@pytest.fixture(scope="module")
def run() -> Result:
    """The command, in earnest, asked for a GPU channel."""
    return invoke("--json", "--channel", "cuda_ipc")


@pytest.fixture(scope="module")
def fields(run: Result) -> dict[str, Any]:
    assert run.stdout.count("\n") == 1
    found: dict[str, Any] = json.loads(run.stdout)
    return found


@pytest.fixture(scope="module")
def findings(fields: dict[str, Any]) -> list[Finding]:
    return [Finding.of_fields(found) for found in fields["checks"]]


@pytest.fixture(scope="module")
def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {found.name: found for found in findings}


class TestRealRun:
    @needs_no_gpu
    def test_a_channel_that_cannot_work_here_is_exit_code_1_and_says_what_to_do(
        self, run: Result, fields: dict[str, Any], by_name: dict[str, Finding]
    ) -> None:
        assert run.exit_code == 1
        assert run.stderr.splitlines()[-1] == "asked for and not working: channel.cuda_ipc"
        assert (fields["ok"], fields["missing"]) == (False, ["channel.cuda_ipc"])
        row = by_name["channel.cuda_ipc"]
        assert (row.result, row.found) == (Found.NOT_HERE, "not run: no GPU here")
        assert "NVIDIA GPU" in row.mend

    @needs_no_gpu
    def test_nothing_about_a_gpu_is_claimed(self, by_name: dict[str, Finding]) -> None:
        for name in ("gpus", "channel.cuda_ipc", "channel.nccl", "attention.flash_attn"):
            assert by_name[name].result is Found.NOT_HERE
            assert by_name[name].mend

    def test_the_object_is_the_documented_one(self, fields: dict[str, Any]) -> None:
        assert set(fields) == {"ok", "version", "asked", "missing", "checks"}
        rows = fields["checks"]
        assert all(set(row) == {"name", "title", "result", "found", "mend", "values"} for row in rows)
        assert len({row["name"] for row in rows}) == len(rows)
        documented = (Path(__file__).parents[3] / "docs" / "doctor.md").read_text(encoding="utf-8")
        for row in rows:
            name = row["name"].partition(".")[0] + ".NAME" if row["name"].startswith("package.") else row["name"]
            assert f"`{name}`" in documented, row["name"]

    def test_what_works_was_measured(self, by_name: dict[str, Finding]) -> None:
        for kind in ("inline", "shm", "gloo"):
            values = by_name[f"channel.{kind}"].values
            assert values["bytes_per_second"] > 0
            assert values["latency_seconds"] > 0
            assert values["large_bytes"] == LARGE_BYTES
        assert 0 <= by_name["attention.sdpa"].values["difference"] < by_name["attention.sdpa"].values["allowed"]
        assert 0 < by_name["grpc"].values["p50_seconds"] <= by_name["grpc"].values["p99_seconds"]
        assert by_name["package.torch"].values["version"] == torch.__version__
        assert by_name["engine"].is_ok

    @needs_no_gpu
    def test_the_defaults_ask_for_what_works_here(
        self, findings: list[Finding], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert missing(asked_for(Scope()), findings) == []
        assert next(found for found in findings if found.name == "channel").values["kind"] == "shm"
        monkeypatch.setattr(command, "examine", lambda scope, progress: iter(findings))
        result = invoke()
        assert result.exit_code == 0
        for found in findings:
            assert found.title in result.stdout
        assert "mend:" in result.stdout
        assert "* asked for" in result.stdout

    def test_whatever_does_not_work_says_how_to_mend_it(self, findings: list[Finding]) -> None:
        assert all(bool(found.mend) is not found.is_ok for found in findings)
        assert all("\n" not in found.found + found.mend for found in findings)


class TestAsked:
    @pytest.mark.parametrize(
        ("given", "words"),
        [
            (("--channel", "pigeon"), "--channel pigeon is unknown: give auto, inline"),
            (("--attention", "flash"), "--attention flash is unknown"),
            (("--device", "tpu"), "--device tpu is not supported"),
            (("--address", "here"), "'here' is not HOST:PORT"),
            (("--address", "here:0"), "'here:0' is not HOST:PORT"),
        ],
    )
    def test_wrong_options_are_exit_code_2(self, given: tuple[str, ...], words: str) -> None:
        result = invoke(*given)
        assert result.exit_code == 2
        assert words in result.stderr
        assert result.stdout == ""

    def test_each_option_asks_for_its_own(self) -> None:
        assert asked_for(Scope()) == ("engine", "grpc", "attention.sdpa", "channel")
        scope = Scope("t", "d", "cuda", "shm", "flash_attn", "host:1")
        assert asked_for(scope)[3:] == (
            "channel.shm", "shm", "device", "attention.flash_attn", "target", "draft", "server", "server.drafter",
        )  # fmt: skip

    def test_a_row_that_is_not_there_is_missing(self) -> None:
        rows = [ok("grpc", "g", "fine"), not_here("engine", "e", "gone", "get it")]
        assert missing(("grpc", "engine", "channel"), rows) == ["engine", "channel"]


class TestChildren:
    def test_one_that_hangs_is_killed(self) -> None:
        child = Child(HANGS)
        with pytest.raises(ChildLost, match=r"hung: not done after 0.2 s"):
            child.ask({}, 0.2)
        with pytest.raises(ProcessLookupError):
            os.kill(child.pid, 0)

    def test_one_that_dies_is_told_by_its_last_words(self) -> None:
        with Child(DIES) as child, pytest.raises(ChildLost, match="ended by SIGABRT: boom"):
            child.ask({}, 20)

    def test_a_hung_check_is_a_broken_row_and_the_next_one_is_done(self) -> None:
        here = Helper(Scope(seconds=1.5), ECHOES)
        (slow,) = here.check("slow", "a slow one")
        assert slow.result is Found.BROKEN
        assert "hung" in slow.found
        assert slow.title == "a slow one"
        (quick,) = here.check("quick", "a quick one")
        assert quick.is_ok
        here.close()

    def test_a_hung_trial_is_a_broken_row(self, tmp_path: Path) -> None:
        pair = channels.Pair(str(tmp_path), 0.2, HANGS)
        found = channels.try_once(ChannelKind.SHM, "channel.shm", "channel shm", ("cpu", "cpu"), pair)
        assert found.result is Found.BROKEN
        assert "hung" in found.found
        assert "--shm-dir" in found.mend
        pair.close()

    def test_a_check_that_raises_is_a_broken_row_of_one_line(self) -> None:
        def check() -> Finding:
            raise ValueError("one\n  two")

        (row,) = guarded("name", "title", check)
        assert (row.result, row.found) == (Found.BROKEN, "ValueError: one two")
        assert row.mend
        row = Finding.of_fields(helper.act({"check": "nothing", "title": "t", "scope": {}})["findings"][0])
        assert (row.result, row.title, row.found) == (Found.BROKEN, "t", "KeyError: 'nothing'")

    def test_a_missing_module_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(helper.CHECKS, "engine", "nowhere:check")
        row = Finding.of_fields(helper.act({"check": "engine", "title": "t", "scope": {}})["findings"][0])
        assert row.mend == "pip install 'minedraft[engine]'"

    def test_setup_errors_bring_their_own_advice(self) -> None:
        row = failed("n", "t", SetupError("there is none at /x: give a folder"))
        assert (row.found, row.mend) == ("there is none at /x", "give a folder")


class TestWithoutEngine:
    def test_what_was_not_run_has_rows_that_say_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        done = []

        def check(self: Helper, name: str, title: str) -> list[Finding]:
            done.append(name)
            return [broken(name, title, "no torch", "install it") if name == "engine" else ok(name, title, "fine")]

        monkeypatch.setattr(Helper, "check", check)
        rows = {row.name: row for row in examine(Scope(target="/nowhere"), lambda words: None)}
        assert done == ["grpc", "engine"]
        assert set(asked_for(Scope())) <= set(rows)
        assert missing(asked_for(Scope()), rows.values()) == ["engine", "attention.sdpa", "channel"]
        for name in ("attention.sdpa", "gpus", "channel.shm", "channel"):
            assert rows[name].result is Found.NOT_HERE
            assert rows[name].found == "not run: the engine cannot be imported"


class TestTrial:
    """Both ends on threads of this process, which imports torch already."""

    @staticmethod
    def both(tmp_path: Path, kind: str = "shm") -> tuple[dict[str, Any], dict[str, Any]]:
        answers: dict[str, dict[str, Any]] = {}
        ours, theirs = socket.socketpair()
        base = {"directory": str(tmp_path), "host": "127.0.0.1", "device": "cpu", "kind": kind}

        def part(do: str, end: socket.socket) -> None:
            answers[do] = trial.act({**base, "do": do}, Wire(end))

        with ours, theirs:
            sending = threading.Thread(target=part, args=("send", ours))
            sending.start()
            part("receive", theirs)
            sending.join()
        return answers["send"], answers["receive"]

    @pytest.fixture(autouse=True)
    def quick(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(trial, "ROUNDS", {1000: 3, 5000: 3})

    def test_payloads_are_timed(self, tmp_path: Path) -> None:
        sent, received = self.both(tmp_path)
        assert sent == {"timings": []}
        assert [timing["nbytes"] for timing in received["timings"]] == [1000, 5000]
        assert all(timing["median_seconds"] > 0 for timing in received["timings"])
        assert not list(tmp_path.iterdir())

    def test_other_bytes_are_noticed_and_both_ends_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        honest = ShmReceiver.receive

        def receive(self: ShmReceiver, ref: PayloadRef) -> Tensor:
            return honest(self, ref) + 1

        monkeypatch.setattr(ShmReceiver, "receive", receive)
        sent, received = self.both(tmp_path)
        assert received == {"failed": "other bytes came than were sent", "by_other": False}
        assert sent == {"failed": "other bytes came than were sent", "by_other": True}

    def test_a_kind_that_is_not_possible_is_told_by_the_end_that_knows(self, tmp_path: Path) -> None:
        sent, received = self.both(tmp_path / "nowhere")
        assert "cannot be opened here" in received["failed"]
        assert "by_other" in sent

    def test_an_end_that_is_gone_is_told(self, tmp_path: Path) -> None:
        ours, theirs = socket.socketpair()
        theirs.close()
        base = {"directory": str(tmp_path), "host": "127.0.0.1", "device": "cpu", "kind": "inline", "do": "send"}
        with ours:
            answer = trial.act(base, Wire(ours))
        assert answer == {"failed": "the other process ended", "by_other": True}


class TestChannels:
    def test_reasons_without_a_trial(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pair = channels.Pair(str(tmp_path), 0.2, HANGS)  # never started

        def reason(kind: ChannelKind, device: str, count: int) -> str:
            (found,) = channels.check(kind, device, count, pair)
            assert found.result is Found.NOT_HERE
            return found.found

        assert reason(ChannelKind.CUDA_IPC, "cpu", 0) == "not run: no GPU here"
        assert reason(ChannelKind.CUDA_IPC, "cpu", 1) == "not run: --device cpu was given"
        monkeypatch.setattr(channels, "find_spec", lambda name: None)
        assert reason(ChannelKind.NCCL, "cuda:0", 2) == "not run: nccl4py is not installed"
        monkeypatch.setattr(channels, "find_spec", lambda name: name)
        assert reason(ChannelKind.NCCL, "cuda:0", 1) == "not run: it needs two GPUs, and 1 is here"

    @pytest.mark.parametrize(
        ("device", "count", "tried"),
        [
            ("cpu", 0, [("inline", "cpu"), ("shm", "cpu"), ("gloo", "cpu")]),
            ("cuda:0", 1, [("inline", "cuda:0"), ("shm", "cuda:0"), ("gloo", "cuda:0"), ("cuda_ipc", "cuda:0")]),
            (
                "cuda:1",
                2,
                [("inline", "cuda:1"), ("shm", "cuda:1"), ("gloo", "cuda:1"), ("cuda_ipc", "cuda:1"),
                 ("cuda_ipc", "cuda:0"), ("nccl", "cuda:0")],
            ),
        ],
    )  # fmt: skip
    def test_which_are_tried_where(
        self, device: str, count: int, tried: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []

        def try_once(kind: ChannelKind, name: str, title: str, devices: tuple[str, str], pair: Any) -> Finding:
            assert devices[1] == device
            seen.append((kind.value, devices[0]))
            return ok(name, title, "fine")

        monkeypatch.setattr(channels, "try_once", try_once)
        monkeypatch.setattr(channels, "find_spec", lambda name: name)
        rows = list(channels.check_all(Scope(), device, count, channels.Pair("", 1.0, HANGS)))
        assert seen == tried
        assert len({row.name for row in rows}) == len(rows)
        assert rows[-1].values["kind"] == ("shm" if device == "cpu" else "cuda_ipc")

    def test_no_channel_at_all_is_broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            channels, "try_once", lambda kind, name, title, devices, pair: broken(name, title, "no", "yes")
        )
        rows = list(channels.check_all(Scope(), "cpu", 0, channels.Pair("", 1.0, HANGS)))
        assert (rows[-1].name, rows[-1].result) == ("channel", Found.BROKEN)
        assert "channel" in missing(asked_for(Scope()), rows)


class TestMachine:
    def test_too_little_shared_memory_is_told_with_what_is_needed(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert machine.shared_memory(tmp_path / "none").result is Found.BROKEN
        usage = type("Usage", (), {"total": 64 << 20, "free": 60 << 20})
        monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
        row = machine.shared_memory(tmp_path)
        assert (row.result, row.found) == (Found.BROKEN, "64 MiB, 60 free; a channel takes up to 256")
        assert "--shm-size" in row.mend

    def test_few_open_files(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(resource, "getrlimit", lambda which: (256, 4096))
        row = machine.limits()[0]
        assert (row.result, row.values["soft"]) == (Found.BROKEN, 256)
        assert "ulimit -n" in row.mend

    def test_a_time_quota_is_seen(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        quota = tmp_path / "cpu.max"
        monkeypatch.setattr(machine, "CPU_QUOTA", quota)
        quota.write_text("150000 100000\n")
        assert machine.cores().values["quota"] == 1.5
        quota.write_text("max 100000\n")
        assert machine.cores().values["quota"] is None


class TestGpus:
    @pytest.mark.parametrize(
        ("text", "version"),
        [
            ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023", "535.104.05"),
            ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build", "550.54.15"),
            ("something else", ""),
        ],
    )
    def test_the_driver_s_version(
        self, text: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "version"
        monkeypatch.setattr(gpus, "DRIVER", file)
        assert gpus.kernel_driver() == ""
        file.write_text(text + "\nGCC version: 12.2.0\n")
        assert gpus.kernel_driver() == version

    @needs_no_gpu
    def test_a_driver_without_a_torch_for_it_is_broken(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = tmp_path / "version"
        file.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19\n")
        monkeypatch.setattr(gpus, "DRIVER", file)
        (row,) = gpus.check_gpus(Scope())
        assert row.result is Found.BROKEN
        assert row.values["count"] == 0
        assert row.mend

    @needs_no_gpu
    def test_a_device_that_is_not_here(self) -> None:
        (row,) = gpus.check_device(Scope(device="cuda"))
        assert (row.result, row.values["device"]) == (Found.NOT_HERE, "cpu")


class TestAttention:
    """The checks of a GPU machine, over a double of flash-attn that holds to its rules."""

    @pytest.mark.parametrize("dtype", attention.RAGGED_TOLERANCES, ids=str)
    def test_a_right_function_passes(self, dtype: torch.dtype) -> None:
        difference = attention.ragged_difference(flash_attn_varlen_func, CPU, dtype)
        assert difference <= attention.RAGGED_TOLERANCES[dtype]

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda given: given | {"softmax_scale": 1.01 * given["softmax_scale"]},
            lambda given: given | {"block_table": given["block_table"].flip(0)},
        ],
        ids=["scale", "blocks"],
    )
    def test_a_wrong_function_fails(self, spoil: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        def wrong(q: Tensor, k: Tensor, v: Tensor, **given: Any) -> Tensor:
            return flash_attn_varlen_func(q, k, v, **spoil(given))

        difference = attention.ragged_difference(wrong, CPU, torch.float16)
        assert not difference <= attention.RAGGED_TOLERANCES[torch.float16]

    def test_a_model_over_it_passes(self) -> None:
        model = attention.random_model(torch.bfloat16, CPU, FlashBackend(flash_attn_varlen_func))
        row = attention._parity("name", "title", model, "the stock model", "mend")
        assert row.is_ok
        assert row.values["difference"] > 0


class TestModels:
    def test_models_that_do_not_go_together(self, tmp_path: Path) -> None:
        target, draft = tiny_llama(tmp_path / "target"), tiny_llama(tmp_path / "draft", vocab_size=310)
        rows = models.check_models(Scope(target=str(target), draft=str(target)))
        assert [row.is_ok for row in rows] == [True, True]
        rows = models.check_models(Scope(target=str(target), draft=str(draft)))
        assert [row.is_ok for row in rows] == [True, False]
        assert "tokenizer" in rows[1].found

    def test_a_model_that_is_not_there(self, tmp_path: Path) -> None:
        (row,) = models.check_models(Scope(target=str(tmp_path / "none")))
        assert row.result is Found.BROKEN
        assert row.mend.startswith("give a model's folder")

    def test_demo_before_it_was_fetched(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MINEDRAFT_HOME", str(tmp_path))
        assert models.check_demo().result is Found.NOT_HERE
        target, draft, rows = models.resolve("demo", "ngram")
        assert (target, draft) == ("", "ngram")
        assert [row.name for row in rows] == ["target"]
        assert "minedraft models pull demo" in rows[0].mend


class TestServer:
    def test_what_it_says(self) -> None:
        with serving() as here:
            rows = server.check_server(Scope(address=here.address))
        assert [row.name for row in rows] == ["server", "server.drafter"]
        assert all(row.is_ok for row in rows)
        assert rows[0].values["target"] == "toy"
        assert rows[1].found == "toy-draft, dense laws over inline"

    def test_a_refused_drafter(self) -> None:
        info = replace(INFO, drafters=(replace(INFO.drafter, connected=False, refusal="another tokenizer"),))
        with serving(FakeService(info)) as here:
            rows = server.check_server(Scope(address=here.address))
        assert [row.result for row in rows] == [Found.OK, Found.BROKEN]
        assert rows[1].found == "not used: another tokenizer"

    def test_nobody(self) -> None:
        rows = server.check_server(Scope(address="127.0.0.1:9", seconds=0.5))
        assert [row.result for row in rows] == [Found.BROKEN, Found.NOT_HERE]
        assert all(row.mend for row in rows)


def test_the_table_has_a_row_a_check_and_a_mend_where_it_is_due() -> None:
    rows = [
        ok("a", "first", "1 GB/s"),
        not_here("b", "second", "not run: no GPU here", "get one"),
        broken("c", "third", "bad", "mend it"),
    ]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table(rows, ["b"]))
    lines = console.export_text().splitlines()
    assert any("first" in line and "ok" in line and "1 GB/s" in line for line in lines)
    assert any("second *" in line and "not here" in line for line in lines)
    assert sum("mend:" in line for line in lines) == 2
