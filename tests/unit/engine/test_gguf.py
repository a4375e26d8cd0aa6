"""GGUF files: a tiny one, written here and read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFWriter
from tokenizers import Tokenizer

from minedraft.engine.opening import open_model
from minedraft.errors import SetupError
from minedraft.model.gguf import convert_gguf
from minedraft.model.hf import HFModel
from minedraft.model.loader import load
from tests.models import tiny_model
from tests.unit.engine.helpers import engine, feed, full_logits, item

HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture(scope="module")
def original() -> HFModel:
    return tiny_model(dtype="float32", max_len=64)


@pytest.fixture(scope="module")
def gguf(original: HFModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "tiny.F32.gguf"
    write_gguf(path, original, "llama")
    return path


def write_gguf(path: Path, model: HFModel, architecture: str) -> None:
    """Write a Llama as llama.cpp's converter does, with a byte-level tokenizer of one merge."""
    writer: Any = GGUFWriter(path, architecture)
    writer.add_block_count(model.num_layers)
    writer.add_context_length(model.max_len)
    writer.add_embedding_length(HEADS * HEAD_DIM)
    writer.add_feed_forward_length(2 * HEADS * HEAD_DIM)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(HEAD_DIM)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(model.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    plain = [chr(0x100 + index) for index in range(model.vocab_size - len(SPECIAL) - 1)]
    writer.add_token_list([*SPECIAL, *plain, plain[0] + plain[1]])
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(plain) + 1))
    writer.add_token_merges([f"{plain[0]} {plain[1]}"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, weight in model.module.state_dict().items():
        writer.add_tensor(gguf_name(name), permuted(name, weight).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    outer = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem = name.removesuffix(".weight")
    if stem in outer:
        return f"{outer[stem]}.weight"
    _, _, layer, inner = stem.split(".", 3)
    return f"blk.{layer}.{NAMES[inner]}.weight"


def permuted(name: str, weight: torch.Tensor) -> torch.Tensor:
    """llama.cpp interleaves the halves of each rotary head."""
    for part, heads in (("q_proj", HEADS), ("k_proj", KV_HEADS)):
        if part in name:
            return weight.view(heads, 2, HEAD_DIM // 2, -1).transpose(1, 2).reshape(weight.shape)
    return weight


def test_weights_come_out_plain(gguf: Path, original: HFModel) -> None:
    loaded = load(gguf, dtype="float32").state_dict()
    expected = original.module.state_dict()
    assert loaded.keys() == expected.keys()
    for name, weight in expected.items():
        assert type(loaded[name]) is torch.Tensor
        assert torch.equal(loaded[name], weight), name


def test_auto_is_bfloat16(gguf: Path) -> None:
    model = load(gguf.parent)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    frequencies = [buffer for name, buffer in model.named_buffers() if name.endswith("rotary_emb.inv_freq")]
    assert [frequency.dtype for frequency in frequencies] == [torch.float32]


def test_open_and_serve(gguf: Path, original: HFModel) -> None:
    model, tokenizer = open_model(str(gguf), dtype="float32")
    assert (model.model_id, model.eos_token_ids, model.max_len) == ("tiny.F32", (2,), 64)
    token_ids = list(range(20, 40))
    logits = feed(engine(model), item(1, 0, token_ids))
    torch.testing.assert_close(logits[0], full_logits(original, token_ids)[-1], rtol=1e-4, atol=1e-4)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer.special_tokens.items() >= {("eos_token", "<|im_end|>")}
    assert tokenizer.fingerprint == model.tokenizer_fingerprint
    assert Tokenizer.from_buffer(tokenizer.tokenizer_json).token_to_id("<|im_start|>") == 1


def test_convert_to_a_plain_folder(gguf: Path, original: HFModel, tmp_path: Path) -> None:
    convert_gguf(gguf, tmp_path / "plain")
    names = {path.name for path in (tmp_path / "plain").iterdir()}
    assert names >= {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
    }
    model, tokenizer = open_model(str(tmp_path / "plain"))
    assert model.dtype is torch.bfloat16
    assert model.eos_token_ids == (2,)
    assert tokenizer.chat_template == TEMPLATE
    assert tokenizer == open_model(str(gguf))[1]
    for name, weight in load(tmp_path / "plain").state_dict().items():
        assert torch.equal(weight, original.module.state_dict()[name].bfloat16()), name


def test_reading_is_quiet(gguf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    convert_gguf(gguf, tmp_path / "plain")
    assert capfd.readouterr() == ("", "")


def test_a_damaged_file(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_bytes(b"GGUF" + b"\xff" * 32)
    with pytest.raises(SetupError, match=r"bad.gguf cannot be loaded") as caught:
        load(tmp_path / "bad.gguf")
    assert "\n" not in str(caught.value)
    with pytest.raises(SetupError, match=r"the tokenizer in .*bad.gguf cannot be read"):
        open_model(str(tmp_path / "bad.gguf"))
