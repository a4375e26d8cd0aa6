"""A Llama checkpoint as a GGUF file without a tokenizer, for programs that read nothing else and get token ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

KINDS = {"bf16": gguf.GGMLQuantizationType.BF16, "q4_1": gguf.GGMLQuantizationType.Q4_1}


def write(folder: Path, to: Path, kind: str) -> None:
    """Matrices in `kind`, vectors in float32."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    rope: dict[str, Any] = config.get("rope_parameters") or config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    writer = gguf.GGUFWriter(to, "llama")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(rope["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            found = names.get_name(name, try_suffixes=(".weight",))
            if found is None:
                raise SystemExit(f"{file}: no place in a GGUF file for {name}")
            turned = next((in_pairs(tensor, count) for part, count in heads.items() if part in name), tensor)
            values: Any = turned.to(torch.float32).numpy()
            if values.ndim < 2:
                writer.add_tensor(found, values)
            else:
                data = gguf.quants.quantize(np.ascontiguousarray(values), KINDS[kind])
                writer.add_tensor(found, data, raw_dtype=KINDS[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def in_pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows in the order of GGUF's Llama, which turns neighbours where transformers turns halves. [heads * d, hidden]"""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1)
    return halves.swapaxes(1, 2).reshape(weight.shape)
