"""What the target thinks at every token of the corpus: its last hidden states, from which its laws follow exactly.

A hidden state takes 2 bytes times the hidden size, less than the likeliest hundred probabilities with their ids, and
its product with any rows of the target's output layer gives the law over just those tokens.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from minedraft.distill.corpus import Sample
from minedraft.errors import SetupError

SHARD: Final = 240  # samples in a file
BATCH_TOKENS: Final = 4096
TOLERANCE: Final = 0.05  # of the logits' spread, between head(hidden) and the model's own logits


@dataclass(frozen=True, slots=True)
class Lesson:
    """One sample with what the target thought."""

    sample: Sample
    hidden: Tensor  # [completion tokens, H] bfloat16; row i goes before completion token i


class Teacher:
    """The target, read only."""

    def __init__(self, module: PreTrainedModel) -> None:
        parts: Any = module
        self.module = module
        self.body: Any = parts.base_model
        self.head_weight: Tensor = parts.get_output_embeddings().weight  # [V, H]
        self.device: torch.device = module.device
        self._check()

    @torch.inference_mode()
    def hidden(self, samples: Sequence[Sample]) -> list[Tensor]:
        """The last hidden states before each completion token of each sample. [completion tokens, H] bfloat16"""
        rows = [sample.token_ids[:-1] for sample in samples]
        longest = max(map(len, rows))
        padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        states = self.body(
            input_ids=padded, use_cache=False
        ).last_hidden_state  # causal: padding behind changes nothing
        return [
            states[i, len(sample.prompt_ids) - 1 : len(sample.token_ids) - 1].bfloat16().cpu().clone()
            for i, sample in enumerate(samples)
        ]

    @torch.inference_mode()
    def _check(self) -> None:
        """Raise SetupError for a model whose logits are not the product of its last hidden states and output layer."""
        probe = torch.arange(1, 9, device=self.device)[None]
        own = self.module(input_ids=probe, use_cache=False).logits.float()
        ours = (self.body(input_ids=probe, use_cache=False).last_hidden_state @ self.head_weight.T).float()
        if not float((ours - own).abs().max()) <= TOLERANCE * float(own.std()):
            raise SetupError(f"{self.module.config.model_type} does more to its logits than a product: not supported")


def teach(teacher: Teacher, samples: Sequence[Sample], folder: Path, progress: Callable[[int], None]) -> None:
    """Write the hidden states of `samples` to shards in `folder`, those that are not there yet. `progress`: tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(samples), SHARD):
        part, path = samples[start : start + SHARD], _path(folder, start)
        if not path.exists() or _rows(path) != _total(part):
            write_shard(path, _hidden(teacher, part))
        progress(_total(part))


def lessons(samples: Sequence[Sample], folder: Path) -> list[Lesson]:
    """The samples with their hidden states. All in memory: 1.2 KB a token at hidden size 576."""
    found = []
    for start in range(0, len(samples), SHARD):
        part = samples[start : start + SHARD]
        lengths = [len(sample.completion_ids) for sample in part]
        states = torch.split(load_file(_path(folder, start))["hidden"], lengths)
        found += [Lesson(sample, hidden) for sample, hidden in zip(part, states, strict=True)]
    return found


def write_shard(path: Path, hidden: Sequence[Tensor]) -> None:
    """By one rename, so that half a shard is never read."""
    unfinished = path.with_suffix(".part")
    save_file({"hidden": torch.cat(list(hidden))}, unfinished)
    os.replace(unfinished, path)


def _hidden(teacher: Teacher, samples: Sequence[Sample]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    batch: list[int] = []
    for i in sorted(range(len(samples)), key=lambda i: len(samples[i].token_ids)):
        if batch and (len(batch) + 1) * len(samples[i].token_ids) > BATCH_TOKENS:
            found |= dict(zip(batch, teacher.hidden([samples[j] for j in batch]), strict=True))
            batch = []
        batch.append(i)
    found |= dict(zip(batch, teacher.hidden([samples[j] for j in batch]), strict=True))
    return [found[i] for i in range(len(samples))]


def _path(folder: Path, start: int) -> Path:
    return folder / f"{start // SHARD:05d}.safetensors"


def _rows(path: Path) -> int:
    return len(load_file(path)["hidden"])


def _total(samples: Sequence[Sample]) -> int:
    return sum(len(sample.completion_ids) for sample in samples)
