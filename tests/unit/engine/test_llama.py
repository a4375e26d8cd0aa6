"""The Llama family in our own words against `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from minedraft.engine.opening import open_model
from minedraft.errors import SetupError
from minedraft.model import selfcheck
from minedraft.model.llama import LlamaModel, is_family
from tests.models import tiny_llama
from tests.unit.engine.helpers import engine, feed, full_logits, item
from tests.unit.engine.test_architectures import PROMPT, stock

KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "biases everywhere": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "wide heads": ("llama", {"head_dim": 16}),
    "one KV head": ("llama", {"num_key_value_heads": 1}),
    "as many KV heads": ("llama", {"num_key_value_heads": 4}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "scaled rope": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
}


@pytest.fixture(params=KINDS.values(), ids=list(KINDS))
def model(request: pytest.FixtureRequest) -> LlamaModel:
    architecture, settings = request.param
    module = stock(architecture, **settings)
    assert is_family(module.config)
    return LlamaModel(module, model_id=architecture)


def test_logits_equal_the_stock_models(model: LlamaModel) -> None:
    expected = full_logits(model, [*PROMPT, 5, 6, 7], attention="eager")
    scale = float(expected.abs().max())
    model.release()
    on = engine(model)
    logits = feed(on, item(1, 0, PROMPT), (50, 60))
    torch.testing.assert_close(logits[0], expected[len(PROMPT) - 1], rtol=0, atol=1e-5 * scale)
    logits = feed(on, item(1, len(PROMPT), (5,)), (6, 7))
    torch.testing.assert_close(logits, expected[-3:], rtol=0, atol=1e-5 * scale)


def test_self_check_passes(model: LlamaModel) -> None:
    assert selfcheck.check(model) < 1e-5


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_dtypes(dtype: str, tmp_path: Path) -> None:
    """float64 has no packed weights, bfloat16 rounds otherwise; both pass the check that opening a model makes."""
    model, _ = open_model(str(tiny_llama(tmp_path / "model", dtype=dtype)))
    assert isinstance(model, LlamaModel)
    assert model.dtype == getattr(torch, dtype)


def test_a_wrong_layer_does_not_pass(tmp_path: Path) -> None:
    model = LlamaModel(stock("llama"), model_id="wrong")
    model._sin = -model._sin
    with pytest.raises(SetupError, match="self-check failed"):
        selfcheck.check(model)


@pytest.mark.parametrize(
    ("architecture", "settings"),
    [("llama", {"hidden_act": "gelu"}), ("gemma", {}), ("qwen3", {}), ("phi3", {})],
)
def test_others_are_served_by_transformers_own_code(architecture: str, settings: dict[str, Any]) -> None:
    assert not is_family(stock(architecture, **settings).config)
