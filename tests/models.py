"""Tiny random models in folders, for tests that need a real one."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from minedraft.model.byte_tokenizer import BOS_ID, EOS_ID, byte_tokenizer
from minedraft.model.hf import HFModel
from minedraft.model.loader import DTYPES, quieten


def tiny_llama(
    folder: Path,
    *,
    vocab_size: int = 300,
    layers: int = 2,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    seed: int = 0,
    dtype: str = "float64",
    max_len: int = 512,
    noise: float = 0.0,
) -> Path:
    """Write a random Llama and a byte-level tokenizer to `folder`; return it.

    The tokenizer has one token a byte (end of text: id 3), so prompts of any text work; `vocab_size` is at least 256.
    The weights are large enough that greedy output varies. Models with equal arguments are equal; `noise` is the scale
    of a further disturbance of the weights: a draft model with 0.1 often, but not always, agrees with the one without.
    """
    model = _llama(vocab_size, layers, hidden, heads, kv_heads, seed, dtype, max_len, noise)
    model.save_pretrained(folder)
    write_byte_tokenizer(folder, vocab_size)
    return folder


def tiny_model(
    *,
    vocab_size: int = 300,
    layers: int = 2,
    hidden: int = 32,
    heads: int = 4,
    kv_heads: int = 2,
    seed: int = 0,
    dtype: str = "float64",
    max_len: int = 512,
    noise: float = 0.0,
) -> HFModel:
    """The model of `tiny_llama`, ready for an engine, without files."""
    model = _llama(vocab_size, layers, hidden, heads, kv_heads, seed, dtype, max_len, noise)
    return HFModel(model, model_id="tiny", eos_token_ids=(EOS_ID,))


def _llama(
    vocab_size: int,
    layers: int,
    hidden: int,
    heads: int,
    kv_heads: int,
    seed: int,
    dtype: str,
    max_len: int,
    noise: float,
) -> LlamaForCausalLM:
    quieten()
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=max_len,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        pad_token_id=None,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    module: torch.nn.Module = model
    module.to(DTYPES[dtype]).requires_grad_(False).train(False)
    randomise(model, seed)
    if noise:
        randomise(model, seed + 1, scale=noise, add=True)
    model.generation_config = GenerationConfig.from_dict({"bos_token_id": BOS_ID, "eos_token_id": EOS_ID})
    return model


def randomise(model: torch.nn.Module, seed: int, *, scale: float = 1.0, add: bool = False) -> None:
    """Draw all weights anew, scaled so that every layer matters: matrices by their fan-in, vectors around 1 or 0."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            drawn = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            if weight.dim() > 1:
                drawn *= 1.5 * scale / weight.shape[-1] ** 0.5 if "emb" not in name else scale
            else:
                drawn = drawn * 0.1 * scale + (0.0 if add or "bias" in name else 1.0)
            weight.copy_(weight + drawn if add else drawn)


def write_byte_tokenizer(folder: Path, vocab_size: int) -> None:
    """The tokenizer of `minedraft.model.byte_tokenizer` as files."""
    files = byte_tokenizer(vocab_size)
    (folder / "tokenizer.json").write_bytes(files.tokenizer_json)
    (folder / "chat_template.jinja").write_text(files.chat_template, encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **files.special_tokens}), encoding="utf-8"
    )
