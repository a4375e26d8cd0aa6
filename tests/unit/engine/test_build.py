"""From settings to an engine."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
import torch

from minedraft.config import DrafterSettings, VerifierSettings
from minedraft.engine import memory
from minedraft.engine.build import Part, build_engine
from minedraft.engine.opening import open_model
from minedraft.errors import SetupError
from minedraft.kv.sizing import GIB, DeviceMemory
from minedraft.model import flash, graphs, selfcheck
from minedraft.model.byte_tokenizer import byte_tokenizer
from minedraft.model.hf import HFModel
from minedraft.types import TokenizerFiles
from tests.models import tiny_llama
from tests.unit.engine.flash_double import flash_attn_varlen_func
from tests.unit.engine.graph_double import GraphDeviceDouble
from tests.unit.engine.helpers import feed, item


def verifier(**settings: Any) -> VerifierSettings:
    return VerifierSettings(**settings)


def drafter(**settings: Any) -> DrafterSettings:
    return DrafterSettings(**settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


def test_a_real_model(folder: Path) -> None:
    built = build_engine(verifier(model=str(folder)), Part.TARGET, "me")
    info = built.engine.info
    assert (info.model_id, info.dtype, info.max_len, info.block_size) == ("tiny", "float64", 512, 16)
    assert info.num_blocks == 64 * 32
    assert info.eos_token_ids == (3,)
    assert info.tokenizer_fingerprint == built.tokenizer.fingerprint == byte_tokenizer(300).fingerprint
    assert built.engine.state().instance_id == "me"
    assert isinstance(built.tokenizer, TokenizerFiles)
    assert feed(built.engine, item(1, 0, (1, 2, 3))).shape == (1, 300)


def test_settings_are_followed(folder: Path) -> None:
    settings = verifier(model=str(folder), dtype="float32", max_len=100, num_blocks=50, block_size=4)
    info = build_engine(settings, Part.TARGET).engine.info
    assert (info.dtype, info.max_len, info.num_blocks, info.block_size) == ("float32", 100, 50, 4)


def test_a_budget_sizes_the_cache(folder: Path) -> None:
    settings = verifier(model=str(folder), kv_cache_mib=1)
    # 2 layers of 2 heads of 8 float64 values, K and V: 512 bytes a token
    assert build_engine(settings, Part.TARGET).engine.info.num_blocks == (1 << 20) // 512 // 16


def test_every_engine_has_its_own_name(folder: Path) -> None:
    settings = verifier(model=str(folder), self_check=False)
    names = {build_engine(settings, Part.TARGET).engine.state().instance_id for _ in range(2)}
    assert len(names) == 2
    assert "" not in names


@pytest.mark.parametrize("checked", [True, False])
def test_the_self_check_is_run_unless_switched_off(
    folder: Path, monkeypatch: pytest.MonkeyPatch, checked: bool
) -> None:
    calls: list[HFModel] = []

    def check(model: HFModel) -> float:
        calls.append(model)
        return 0.0

    monkeypatch.setattr(selfcheck, "check", check)
    build_engine(verifier(model=str(folder), self_check=checked), Part.TARGET)
    assert len(calls) == checked


def test_simulated_pair() -> None:
    simulate = "drafter=1us,verifier=2us,accept=0.5"
    target = build_engine(verifier(simulate=simulate), Part.TARGET)
    draft = build_engine(drafter(simulate=simulate), Part.DRAFT)
    assert (target.engine.info.model_id, draft.engine.info.model_id) == ("simulated-target", "simulated-draft")
    assert target.engine.info.simulated
    assert target.engine.info.max_len == 32768
    assert target.tokenizer == draft.tokenizer == byte_tokenizer(256)


def test_mistakes_are_said(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(SetupError, match="--model FOLDER"):
        build_engine(verifier(), Part.TARGET)
    with pytest.raises(SetupError, match="there is no model at"):
        build_engine(verifier(model=str(tmp_path / "nowhere")), Part.TARGET)
    with pytest.raises(SetupError, match="--max-len 513 is more than"):
        build_engine(verifier(model=str(folder), max_len=513), Part.TARGET)
    with pytest.raises(SetupError, match="--simulate"):
        build_engine(verifier(simulate="fast"), Part.TARGET)


def test_ends_outside_the_vocabulary_are_dropped(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 300, -1]}))
    model, _ = open_model(str(tmp_path), self_check=False)
    assert model.eos_token_ids == (3, 5)


def test_a_model_without_a_tokenizer(folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(SetupError, match=r"no tokenizer.json"):
        open_model(str(tmp_path))


# flash_attn and CUDA graphs over their doubles, on the CPU.


@contextmanager
def capture_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Log lines from "info" on, which tests do not write otherwise."""
    before = structlog.get_config()["wrapper_class"]
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    try:
        with structlog.testing.capture_logs() as logs:
            yield logs
    finally:
        structlog.configure(wrapper_class=before)


@pytest.fixture
def with_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that offers flash-attn."""
    monkeypatch.setattr(flash, "find_flash", lambda device: (flash_attn_varlen_func, "it is there"))


@pytest.fixture
def graph_device(monkeypatch: pytest.MonkeyPatch) -> GraphDeviceDouble:
    device = GraphDeviceDouble()
    monkeypatch.setattr(graphs, "CudaGraphs", lambda place: device)
    return device


def half(folder: Path, **settings: Any) -> dict[str, Any]:
    return {"model": str(folder), "dtype": "float16", "num_blocks": 8, **settings}


@pytest.mark.usefixtures("with_flash")
def test_flash_is_chosen_where_it_can_be(folder: Path) -> None:
    with capture_logs() as logs:
        built = build_engine(verifier(**half(folder)), Part.TARGET)
    assert (built.engine.info.attention_backend, built.engine.info.block_size) == ("flash_attn", 256)
    (chosen,) = [line for line in logs if line["event"] == "attention chosen"]
    assert (chosen["backend"], chosen["reason"]) == ("flash_attn", "device, package and model allow it")
    assert feed(built.engine, item(1, 0, range(20, 290))).shape == (1, 300)


@pytest.mark.usefixtures("with_flash")
@pytest.mark.parametrize(
    ("settings", "backend", "block_size", "reason"),
    [
        ({"attention": "sdpa"}, "sdpa", 16, "--attention sdpa was given"),
        ({"dtype": "float32"}, "sdpa", 16, "the model is float32"),
        ({"block_size": 32}, "sdpa", 32, "--block-size is 32"),
        ({"block_size": 512}, "flash_attn", 512, "allow it"),
    ],
)
def test_why_a_backend_was_chosen(
    folder: Path, settings: dict[str, Any], backend: str, block_size: int, reason: str
) -> None:
    with capture_logs() as logs:
        info = build_engine(verifier(**half(folder) | settings), Part.TARGET).engine.info
    assert (info.attention_backend, info.block_size) == (backend, block_size)
    (chosen,) = [line for line in logs if line["event"] == "attention chosen"]
    assert reason in chosen["reason"]


def test_a_forced_backend_that_cannot_be(folder: Path) -> None:
    with pytest.raises(SetupError, match="--attention flash_attn is not possible: it needs a CUDA device"):
        build_engine(verifier(**half(folder, attention="flash_attn")), Part.TARGET)


@pytest.mark.usefixtures("with_flash")
def test_a_forced_block_size_that_does_not_fit(folder: Path) -> None:
    with pytest.raises(SetupError, match="multiples of 256 tokens, and --block-size is 16"):
        build_engine(verifier(**half(folder, attention="flash_attn", block_size=16)), Part.TARGET)


def wrong_flash(*arguments: torch.Tensor, **options: Any) -> torch.Tensor:
    return flash_attn_varlen_func(*arguments, **options).roll(1, dims=0)  # type: ignore[arg-type]


def test_a_backend_that_fails_the_check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "find_flash", lambda device: (wrong_flash, "it is there"))
    with capture_logs() as logs:
        info = build_engine(verifier(**half(folder)), Part.TARGET).engine.info
    assert (info.attention_backend, info.block_size) == ("sdpa", 16)
    (warning,) = [line for line in logs if line["log_level"] == "warning"]
    assert (warning["failed"], warning["backend"]) == ("flash_attn", "sdpa")
    assert "self-check failed" in warning["reason"]
    with pytest.raises(SetupError, match="self-check failed"):
        build_engine(verifier(**half(folder, attention="flash_attn")), Part.TARGET)


@pytest.mark.usefixtures("with_flash")
@pytest.mark.parametrize("self_check", [True, False])
def test_graphs_of_a_drafter(folder: Path, graph_device: GraphDeviceDouble, self_check: bool) -> None:
    settings = half(folder, cuda_graphs=True, self_check=self_check)
    on = build_engine(drafter(**settings), Part.DRAFT).engine
    assert len(graph_device.graphs) == 4  # 1, 2, 4, 8: as many sequences as blocks
    before = graph_device.replays
    assert bool(before) == self_check
    feed(on, item(1, 0, (5, 6, 7)))
    assert feed(on, item(1, 3, (8,))).isfinite().all()
    assert graph_device.replays == before + 1
    on.release_lease("lease")
    assert on.state().free_blocks == on.info.num_blocks == 8


@pytest.mark.usefixtures("with_flash")
def test_graphs_where_they_cannot_be(folder: Path, graph_device: GraphDeviceDouble) -> None:
    with pytest.raises(SetupError, match="--cuda-graphs needs flash_attn, and this model runs on sdpa"):
        build_engine(drafter(**half(folder, cuda_graphs=True, attention="sdpa")), Part.DRAFT)
    with pytest.raises(SetupError, match="--cuda-graphs needs a real draft model"):
        build_engine(drafter(simulate="drafter=1us,verifier=2us,accept=0.5", cuda_graphs=True), Part.DRAFT)
    with capture_logs() as logs:
        build_engine(verifier(**half(folder, cuda_graphs=True)), Part.TARGET)
    assert any("--cuda-graphs is for draft models" in line["event"] for line in logs)
    assert not graph_device.graphs


def test_want_of_memory_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has ...")

    monkeypatch.setattr(memory, "device_memory", lambda device: DeviceMemory(80 * GIB, 7 * GIB))
    with monkeypatch.context() as patch:
        patch.setattr("minedraft.engine.opening.load", full)
        with pytest.raises(SetupError, match=r"while loading the weights: 20.00 GiB more .* 7.00 of 80.00 GiB"):
            build_engine(verifier(model=str(folder)), Part.TARGET)
    monkeypatch.setattr("minedraft.engine.build.new_store", full)
    with pytest.raises(SetupError, match=r"while allocating the KV cache: 20.00 GiB .*: lower --memory-fraction"):
        build_engine(verifier(model=str(folder), num_blocks=10**9), Part.TARGET)
