"""Draft models as they are shipped: small; and as they are served.

A student's input embeddings are its target's, bit for bit: more than half of its weights, and whoever has the target
has them already. The matrices that are its own travel as whole numbers of at most LARGEST with one scale a row, and all
is compressed by LZMA, which finds that such numbers are small more often than not: about 6.3 bits a weight.
"""

from __future__ import annotations

import lzma
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

import torch
from safetensors import safe_open
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from minedraft.distill.student import TOKENIZER_FILES
from minedraft.errors import SetupError

EMBEDDINGS: Final = "model.embed_tokens.weight"
SCALE: Final = ".scale"
LARGEST: Final = 71  # a CPU serves draft models with 8 bits a weight; a bit less costs little and saves a tenth
WEIGHTS: Final = "model.safetensors"
PACKED: Final = WEIGHTS + ".xz"


def strip(drafter: Path, out: Path) -> None:
    """Write `drafter` to `out` without embeddings and tokenizer, its matrices rounded, all compressed."""
    tensors: dict[str, Tensor] = {}
    for name, weight in load_file(drafter / WEIGHTS).items():
        if name == EMBEDDINGS:
            continue
        if weight.dim() == 2:
            scales = (weight.float().abs().amax(dim=1) / LARGEST).clamp(min=1e-12)
            tensors[name] = (weight.float() / scales[:, None]).round().to(torch.int8)
            tensors[name + SCALE] = scales
        else:
            tensors[name] = weight
    out.mkdir(parents=True, exist_ok=True)
    (out / PACKED).write_bytes(lzma.compress(save(tensors, metadata={"format": "pt"}), preset=lzma.PRESET_EXTREME))
    shutil.copy(drafter / "config.json", out / "config.json")


def complete(shipped: Path, target: Path, folder: Path) -> None:
    """Write the draft model of `shipped` with the embeddings and the tokenizer of `target` to `folder`, by one rename.

    Raises SetupError when `target` has no such embeddings.
    """
    packed = load(lzma.decompress((shipped / PACKED).read_bytes()))
    tensors = {EMBEDDINGS: _embeddings(target)}
    for name, weight in packed.items():
        if weight.dtype is torch.int8:
            tensors[name] = (weight.float() * packed[name + SCALE][:, None]).bfloat16()
        elif not name.endswith(SCALE):
            tensors[name] = weight
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
