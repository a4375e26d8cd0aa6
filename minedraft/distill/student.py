"""The draft model in training: a few of the target's layers, its embeddings, an output layer over frequent tokens."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from minedraft.errors import SetupError
from minedraft.model.draft_vocabulary import HEAD, MAP, SIZE, to_map

TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


class Student(nn.Module):
    """Trained in float32. The embeddings are the target's and stay as they are."""

    token_ids: Tensor  # int64 [draft vocabulary], target ids, rising

    def __init__(self, target: PreTrainedModel, layers: Sequence[int], token_ids: Tensor) -> None:
        super().__init__()
        config: Any = copy.deepcopy(target.config)
        depth = int(config.num_hidden_layers)
        if not layers or any(not -depth <= layer < depth for layer in layers):
            raise SetupError(f"--layers: the target has layers 0 to {depth - 1}")
        layers = [layer % depth for layer in layers]
        config.num_hidden_layers = len(layers)
        if getattr(config, "layer_types", None):
            config.layer_types = [config.layer_types[layer] for layer in layers]
        config.tie_word_embeddings = False
        setattr(config, SIZE, len(token_ids))
        factory: Any = AutoModelForCausalLM
        self.model: Any = factory.from_config(config, dtype=torch.float32, attn_implementation="sdpa")
        body, source = self._layers(self.model), self._layers(target)
        for ours, layer in zip(body, layers, strict=True):
            ours.load_state_dict(source[layer].state_dict())
        others = {
            name: weight for name, weight in target.base_model.state_dict().items() if not name.startswith("layers.")
        }
        self.model.base_model.load_state_dict(others, strict=False)
        rows: Any = target.get_output_embeddings()
        head = nn.Linear(config.hidden_size, len(token_ids), bias=False)
        head.weight.data.copy_(rows.weight[token_ids])
        setattr(self.model, HEAD, head)
        self.register_buffer("token_ids", token_ids, persistent=False)
        self.model.get_input_embeddings().requires_grad_(False)

    @property
    def head(self) -> nn.Linear:
        """The output layer, over the draft vocabulary."""
        found: nn.Linear = getattr(self.model, HEAD)
        return found

    def trained(self) -> dict[str, nn.Parameter]:
        """What training changes, by name."""
        return {name: weight for name, weight in self.named_parameters() if weight.requires_grad}

    def hidden(self, token_ids: Tensor) -> Tensor:
        """[n, length] int64 -> the last hidden states, [n, length, H]."""
        states: Tensor = self.model.base_model(input_ids=token_ids, use_cache=False).last_hidden_state
        return states

    @torch.no_grad()
    def sharpen(self, factor: float) -> None:
        """Multiply all logits. Any draft law is exact; a surer one than what was learned may be kept more often."""
        self.head.weight.mul_(factor)

    def export(self, folder: Path, tokenizer: Path, *, card: str = "") -> None:
        """Write a folder that the drafter serves: bfloat16 weights, the map, the target's tokenizer. Atomic."""
        scratch = folder.with_name(f".{folder.name}.part")
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        tensors = {name: weight.detach().bfloat16().contiguous() for name, weight in self.model.state_dict().items()}
        tensors[MAP] = to_map(self.token_ids.cpu())
        save_file(tensors, scratch / "model.safetensors", metadata={"format": "pt"})
        settings = self.model.config.to_dict() | {"dtype": "bfloat16", "architectures": [type(self.model).__name__]}
        for name in ("_name_or_path", "_model_name_or_path"):
            settings.pop(name, None)
        (scratch / "config.json").write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        for name in TOKENIZER_FILES:
            if (tokenizer / name).is_file():
                shutil.copy(tokenizer / name, scratch / name)
        if card:
            (scratch / "README.md").write_text(card, encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(scratch, folder)

    @staticmethod
    def _layers(model: Any) -> Any:
        layers = getattr(model.base_model, "layers", None)
        if layers is None or not isinstance(getattr(model, HEAD, None), nn.Linear):
            raise SetupError(f"{model.config.model_type} keeps its layers elsewhere: not supported by distill")
        return layers
