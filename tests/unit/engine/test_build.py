"""From settings to an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from minedraft.config import DrafterSettings, VerifierSettings
from minedraft.engine.build import Part, build_engine, open_model
from minedraft.errors import SetupError
from minedraft.model import selfcheck
from minedraft.model.byte_tokenizer import byte_tokenizer
from minedraft.model.hf import HFModel
from minedraft.types import TokenizerFiles
from tests.models import tiny_llama
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
