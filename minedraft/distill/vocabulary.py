"""The tokens worth a row in the draft model's output layer."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from minedraft.distill.corpus import Sample


def frequent(samples: Sequence[Sample], size: int, vocab_size: int, always: Collection[int]) -> Tensor:
    """The `size` tokens that the target writes most, `always` among them, in rising order. int64 [size]

    Prompts count a little: what is asked about comes back in answers. Of tokens never seen the lower ids go first: in a
    BPE vocabulary those were merged earlier, being more frequent.
    """
    written = _counts([token for sample in samples for token in sample.completion_ids], vocab_size)
    read = _counts([token for sample in samples for token in sample.prompt_ids], vocab_size)
    weight = written + 0.05 * read
    weight += torch.linspace(1e-6, 0, vocab_size, dtype=torch.float64)
    weight[list(always)] = torch.inf
    return weight.argsort(descending=True)[:size].sort().values


def coverage(samples: Sequence[Sample], token_ids: Tensor) -> float:
    """The share of completion tokens that the draft vocabulary has."""
    known = set(token_ids.tolist())
    tokens = [token for sample in samples for token in sample.completion_ids]
    return sum(token in known for token in tokens) / max(1, len(tokens))


def _counts(token_ids: Sequence[int], vocab_size: int) -> Tensor:
    return torch.bincount(torch.tensor(token_ids, dtype=torch.int64), minlength=vocab_size).double()
