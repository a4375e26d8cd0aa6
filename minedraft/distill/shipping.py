"""Draft models without the target's embeddings, as they are shipped, and with them again, as they are served.

A student's input embeddings are its target's, bit for bit: more than half of its weights, and whoever has the target
has them already.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from minedraft.distill.student import TOKENIZER_FILES
from minedraft.errors import SetupError

EMBEDDINGS: Final = "model.embed_tokens.weight"
WEIGHTS: Final = "model.safetensors"


def strip(drafter: Path, out: Path) -> None:
    """Write `drafter` to `out` without embeddings and tokenizer."""
    tensors = load_file(drafter / WEIGHTS)
    del tensors[EMBEDDINGS]
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / WEIGHTS, metadata={"format": "pt"})
    shutil.copy(drafter / "config.json", out / "config.json")


def complete(shipped: Path, target: Path, folder: Path) -> None:
    """Write the draft model of `shipped` with the embeddings and the tokenizer of `target` to `folder`, by one rename.

    Raises SetupError when `target` has no such embeddings.
    """
    tensors = load_file(shipped / WEIGHTS) | {EMBEDDINGS: _embeddings(target)}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=folder.parent) as scratch:
        made = Path(scratch) / "drafter"
        made.mkdir()
        save_file(tensors, made / WEIGHTS, metadata={"format": "pt"})
        for name in ("config.json", "README.md"):
            if (shipped / name).is_file():
                shutil.copy(shipped / name, made / name)
        for name in TOKENIZER_FILES:
            if (target / name).is_file():
                shutil.copy(target / name, made / name)
        try:
            os.rename(made, folder)
        except OSError:
            if not (folder / "config.json").is_file():  # another process may have been faster
                raise


def _embeddings(target: Path) -> Tensor:
    for file in sorted(target.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            if EMBEDDINGS in opened.keys():  # noqa: SIM118  # no mapping
                found: Tensor = opened.get_tensor(EMBEDDINGS).bfloat16()
                return found
    raise SetupError(f"{target} has no {EMBEDDINGS}: fetch the target again")
