"""The demo's draft model in a form that other programs read: an output layer with a row for every token of the target.

Its own output layer has rows for the frequent tokens alone (minedraft/model/draft_vocabulary.py), which no other
program knows. Each missing row is a copy of the last known token's, so that it wins only where that one would have: the
drafts are the same, but a draft token costs more.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

HEAD, MAP = "lm_head.weight", "d2t"


def widen(drafter: Path, target: Path, to: Path) -> None:
    """Write the draft model in `drafter` to the folder `to`, with the tokenizer of `target`."""
    config = json.loads((drafter / "config.json").read_text(encoding="utf-8"))
    size = config.pop("draft_vocab_size")
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(drafter.glob("*.safetensors")):
        tensors |= load_file(file)
    known = tensors.pop(MAP) + torch.arange(size)  # [known tokens]
    rows = tensors[HEAD]  # [known tokens, hidden]
    wide = rows[-1].repeat(config["vocab_size"], 1)
    wide[known] = rows
    to.mkdir(parents=True)
    for file in target.iterdir():
        if file.is_file() and file.suffix != ".safetensors":
            shutil.copy(file, to)
    save_file(tensors | {HEAD: wide}, to / "model.safetensors", metadata={"format": "pt"})
    (to / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}, indent=1), encoding="utf-8")
