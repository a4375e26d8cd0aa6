"""RMS norm (Zhang & Sennrich 2019, arXiv 1910.07467) for passes that are mostly small operations."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

FEW_ROWS: Final = 16  # beyond, the values take longer than the operations


class RmsNorm:
    """x / sqrt(mean(x^2) + eps) * weight, [T, H] -> [T, H]. `weight`: [H].

    On a CPU PyTorch makes it of some ten operations. For few rows a layer norm, which is one, is faster: the mean of
    [x, -x] is 0, and its variance is the mean of x^2. It rounds once instead of twice, so it is kept to bfloat16, where
    nobody counts on the last bit.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        self.weight = weight
        self.eps = eps
        self._twice = (
            torch.cat([weight, weight]) if weight.device.type == "cpu" and weight.dtype == torch.bfloat16 else None
        )

    def __call__(self, x: Tensor) -> Tensor:
        if self._twice is not None and len(x) <= FEW_ROWS:
            both = torch.cat([x, -x], dim=-1)  # [T, 2H]
            return functional.layer_norm(both, both.shape[-1:], self._twice, None, self.eps)[:, : x.shape[-1]]
        return functional.rms_norm(x, x.shape[-1:], self.weight, self.eps)
