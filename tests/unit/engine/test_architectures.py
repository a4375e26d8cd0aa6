"""Every architecture on the list against its stock model; others are refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from minedraft.errors import SetupError
from minedraft.model import selfcheck
from minedraft.model.architectures import SUPPORTED, check_architecture, longest
from minedraft.model.hf import HFModel
from minedraft.model.loader import quieten
from tests.models import randomise
from tests.unit.engine.helpers import engine, feed, full_logits, item

COMMON: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 96,
    "pad_token_id": None,
    "bos_token_id": 1,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
OWN: dict[str, dict[str, Any]] = {
    "gemma": {"head_dim": 16},
    "gpt2": {"num_key_value_heads": 4, "n_inner": 48},
    "gpt_neox": {"num_key_value_heads": 4},
    "mistral": {"sliding_window": 96},
    "mixtral": {"num_local_experts": 4},
    "opt": {"num_key_value_heads": 4, "ffn_dim": 48, "word_embed_proj_dim": 32},
    "qwen2_moe": {**EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3": {"head_dim": 16},
    "qwen3_moe": {**EXPERTS, "head_dim": 16},
    "starcoder2": {"sliding_window": None},
}
PROMPT = list(range(10, 30))


def stock(architecture: str, **settings: Any) -> Any:
    """A tiny random model of `transformers`, float32."""
    quieten()
    config = AutoConfig.for_model(architecture, **COMMON | OWN.get(architecture, {}) | settings)
    factory: Any = AutoModelForCausalLM
    module = factory.from_config(config, dtype=torch.float32).eval().requires_grad_(False)
    randomise(module, seed=5)
    return module


@pytest.fixture(scope="module", params=sorted(SUPPORTED))
def model(request: pytest.FixtureRequest) -> HFModel:
    return HFModel(stock(request.param), model_id=request.param)


def test_self_check_passes(model: HFModel) -> None:
    assert selfcheck.check(model) < 1e-5


def test_logits_equal_the_stock_models(model: HFModel) -> None:
    on = engine(model)
    expected = full_logits(model, [*PROMPT, 5, 6, 7], attention="eager")
    scale = float(expected.abs().max())
    logits = feed(on, item(1, 0, PROMPT), (50, 60))
    torch.testing.assert_close(logits[0], expected[len(PROMPT) - 1], rtol=0, atol=1e-5 * scale)
    logits = feed(on, item(1, len(PROMPT), (5,)), (6, 7))
    torch.testing.assert_close(logits, expected[-3:], rtol=0, atol=1e-5 * scale)


def test_greedy_tokens_equal_generate(model: HFModel) -> None:
    expected = model.module
    model.use_attention("eager")
    prompt = torch.tensor([PROMPT])
    generate: Any = expected.generate
    tokens = generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=24, do_sample=False)
    model.use_attention("minedraft_paged")
    on = engine(model)
    committed = list(PROMPT)
    base_len = 0
    for _ in range(24):
        row = feed(on, item(1, base_len, committed[base_len:]))[-1]
        base_len = len(committed)
        committed.append(int(row.argmax()))
    assert committed == tokens[0].tolist()
    assert len(set(committed[len(PROMPT) :])) > 3  # else equality would say little


@pytest.mark.parametrize("architecture", ["gemma3_text", "stablelm", "bloom", "", "t5"])
def test_others_are_refused(architecture: str) -> None:
    with pytest.raises(SetupError, match=r"not supported: use a model of one of arcee"):
        check_architecture(architecture)


def test_stablelm_would_be_caught_without_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minedraft.model.architectures.SUPPORTED", SUPPORTED | {"stablelm"})
    sneaked = HFModel(stock("stablelm"), model_id="sneaked")
    with pytest.raises(SetupError, match="drops the arguments"):
        selfcheck.check(sneaked)


def test_gemma3_would_be_caught_without_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minedraft.model.architectures.SUPPORTED", SUPPORTED | {"gemma3_text"})
    module = stock("gemma3_text", head_dim=16, sliding_window=8)
    with pytest.raises(SetupError, match="--max-len 8"):
        HFModel(module, model_id="sneaked")


@pytest.mark.parametrize("architecture", ["mistral", "phi3", "qwen2", "qwen3", "starcoder2"])
def test_sliding_windows(architecture: str) -> None:
    settings = {"sliding_window": 40, "use_sliding_window": True, "max_window_layers": 1}
    module = stock(architecture, **settings)
    with pytest.raises(
        SetupError, match="sliding window of 40 tokens, which is not supported for 96: give --max-len 40"
    ):
        HFModel(module, model_id="windowed")
    short = HFModel(module, model_id="windowed", max_len=40)
    assert short.max_len == 40
    assert selfcheck.check(short) < 1e-5


def test_a_window_that_is_switched_off() -> None:
    module = stock("qwen2", sliding_window=40, use_sliding_window=False)
    assert HFModel(module, model_id="plain").max_len == 96


def test_longrope_is_served_up_to_where_it_changes() -> None:
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 48,
    }
    module = stock("phi3", rope_parameters=rope, original_max_position_embeddings=48)
    with pytest.raises(SetupError, match="changes its rope past 48 tokens"):
        HFModel(module, model_id="long")
    assert selfcheck.check(HFModel(module, model_id="long", max_len=48)) < 1e-5


def test_dynamic_rope_is_served_at_the_models_own_length() -> None:
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    module = stock("llama", rope_parameters=rope)
    assert selfcheck.check(HFModel(module, model_id="dynamic")) < 1e-5


def test_max_len() -> None:
    config = stock("llama").config
    assert longest(config, 0) == 96
    assert longest(config, 50) == 50
    with pytest.raises(SetupError, match="--max-len 97 is more than the model's 96"):
        longest(config, 97)
    with pytest.raises(SetupError, match="max_position_embeddings"):
        longest(object(), 0)


@pytest.mark.parametrize("architecture", ["gpt2", "opt"])
def test_learned_positions_are_each_sequences_own(architecture: str) -> None:
    """In a ragged batch a token's position is not its place in the batch."""
    served = HFModel(stock(architecture), model_id=architecture)
    on = engine(served)
    alone = feed(on, item(1, 0, PROMPT))
    feed(on, item(2, 0, PROMPT[:7]))
    second = feed(on, item(2, 7, PROMPT[7:]))
    torch.testing.assert_close(second, alone, rtol=1e-4, atol=1e-4)
