"""A draft model made of a few of the target's own layers, untrained: the simplest drafter there is, and a poor one."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM


def truncated_copy(target: Path, layers: tuple[int, ...], folder: Path | None = None) -> Path:
    """Write a copy of the model in `target` that keeps only these layers (negative counts from the end); its folder."""
    out = folder or Path(tempfile.mkdtemp(prefix="minedraft-truncated-"))
    model = AutoModelForCausalLM.from_pretrained(target, dtype="auto")
    kept = [model.model.layers[layer] for layer in layers]
    for place, layer in enumerate(kept):
        layer.self_attn.layer_idx = place
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)
    if getattr(model.config, "layer_types", None):
        model.config.layer_types = [model.config.layer_types[layer] for layer in layers]
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json"):
        if (target / name).exists():
            shutil.copy(target / name, out / name)
    return out
