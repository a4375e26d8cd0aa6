"""Models from disk, and what is said when they are not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from minedraft.errors import SetupError
from minedraft.model.loader import choose_device, load, locate, one_line
from tests.models import tiny_llama


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny", dtype="float32")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("auto", torch.float32),
        ("float32", torch.float32),
        ("bfloat16", torch.bfloat16),
        ("float16", torch.float16),
        ("float64", torch.float64),
    ],
)
def test_dtypes(folder: Path, dtype: str, expected: torch.dtype) -> None:
    model = load(folder, dtype=dtype)
    assert {weight.dtype for weight in model.parameters()} == {expected}
    assert not any(weight.requires_grad for weight in model.parameters())
    assert not model.training


def test_rotary_frequencies_are_never_rounded(folder: Path) -> None:
    frequencies = [
        buffer
        for dtype in ("float32", "bfloat16")
        for name, buffer in load(folder, dtype=dtype).named_buffers()
        if name.endswith("rotary_emb.inv_freq")
    ]
    assert len(frequencies) == 2
    assert all(torch.equal(frequency.float(), frequencies[0]) for frequency in frequencies)


def test_loading_is_quiet(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(folder)
    assert capfd.readouterr() == ("", "")


def test_model_id(folder: Path, tmp_path: Path) -> None:
    assert locate(folder).model_id == "tiny"
    (tmp_path / "Some-Model.Q4_1.gguf").touch()
    assert locate(tmp_path).model_id == "Some-Model.Q4_1"
    assert locate(tmp_path / "Some-Model.Q4_1.gguf") == locate(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"there is no model at .*nowhere: .*minedraft models pull"):
        load(tmp_path / "nowhere")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no config.json"):
        load(tmp_path)


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.bin").touch()
    with pytest.raises(SetupError, match=r"neither a folder nor a .gguf file"):
        load(tmp_path / "model.bin")


def test_several_ggufs(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").touch()
    (tmp_path / "b.gguf").touch()
    with pytest.raises(SetupError, match="2 GGUF files"):
        load(tmp_path)


def test_pickled_weights_are_not_read(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    torch.save(weights, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(SetupError, match=r"no \*.safetensors"):
        load(copy)


def test_code_from_the_folder_is_not_run(copy: Path) -> None:
    change_config(copy, model_type="mine", auto_map={"AutoModelForCausalLM": "modeling_mine.Mine"})
    (copy / "modeling_mine.py").write_text("raise SystemExit('run')")
    with pytest.raises(SetupError, match="architecture mine is not supported"):
        load(copy)


def test_unsupported_architecture_is_refused_before_its_weights_are_read(copy: Path) -> None:
    change_config(copy, model_type="gemma3_text")
    (copy / "model.safetensors").write_bytes(b"unreadable")
    with pytest.raises(SetupError, match="gemma3_text is not supported"):
        load(copy)


def test_quantized_weights_are_refused(copy: Path) -> None:
    change_config(copy, quantization_config={"quant_method": "awq"})
    with pytest.raises(SetupError, match="quantized"):
        load(copy)


def test_missing_weights_are_not_made_up(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(SetupError, match=r"missing_keys: model.layers.1.mlp.up_proj.weight"):
        load(copy)


def test_weights_of_another_shape(copy: Path) -> None:
    change_config(copy, intermediate_size=48)
    with pytest.raises(SetupError, match=r"cannot be loaded|mismatched_keys"):
        load(copy)


def test_damaged_weights(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(SetupError, match="cannot be loaded") as caught:
        load(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("content", "problem"), [("{", "is not JSON"), ("[]", "does not hold a JSON object")])
def test_damaged_config(copy: Path, content: str, problem: str) -> None:
    (copy / "config.json").write_text(content)
    with pytest.raises(SetupError, match=problem):
        load(copy)


def test_unknown_dtype(folder: Path) -> None:
    with pytest.raises(SetupError, match="--dtype int8 is unknown: give auto, float32"):
        load(folder, dtype="int8")


def test_devices() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type in {"cpu", "cuda"}
    with pytest.raises(SetupError, match="--device cuda:99"):
        choose_device("cuda:99")
    with pytest.raises(SetupError, match="not a torch device"):
        choose_device("toaster")
    with pytest.raises(SetupError, match="not supported"):
        choose_device("meta")


def test_one_line() -> None:
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(ValueError("x" * 400), limit=10) == "x" * 7 + "..."
