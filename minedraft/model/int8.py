"""Linear layers with weights of 8 bits, for draft models on a CPU.

A pass over few tokens is as fast as the weights are read: 8 bits take half of the time of 16. Whatever rounding does to
a draft model, the output stays the target's: drafts are judged by the law that they were really drawn from. One scale a
row of weights; activations are rounded in each call, by one scale for all rows of the call, so that drafts (and only
drafts) may depend on batch mates.
"""

from __future__ import annotations

import warnings
from typing import Any, Final

import torch
from torch import Tensor, nn

LARGEST: Final = 127


class Int8Linear(nn.Module):
    """Stands for an `nn.Linear` on the CPU, for inference, with float32 in and out. Holds no parameters."""

    def __init__(self, linear: nn.Linear, *, narrow: bool) -> None:
        """`narrow`: see `overflows`."""
        super().__init__()
        self._narrow = narrow
        operators: Any = torch.ops.quantized
        weight = linear.weight.detach().float()
        scales = (weight.abs().amax(dim=1) / LARGEST).clamp(min=1e-12).double()
        zeros = torch.zeros(len(scales), dtype=torch.int64)
        with warnings.catch_warnings():  # PyTorch 2.13 means to move these operators; `can_quantize` asks for them
            warnings.simplefilter("ignore", UserWarning)
            rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        bias: Any = linear.bias  # may be None, whatever its annotation says
        self.out_features = linear.out_features
        self._apply_int8: Any = operators.linear_dynamic.default
        self._packed = (operators.linear_prepack(rounded, None if bias is None else bias.detach().float()),)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] -> [..., out], float32."""
        if rows.numel() == 0:
            return rows.new_empty(*rows.shape[:-1], self.out_features)
        output: Tensor = self._apply_int8(rows, self._packed[0], self._narrow)
        return output


def can_quantize(device: torch.device) -> bool:
    """Whether this CPU and this build of PyTorch have the operators."""
    return (
        device.type == "cpu"
        and torch.backends.quantized.engine not in {"none", None}
        and hasattr(torch, "quantize_per_channel")
        and hasattr(torch.ops.quantized, "linear_dynamic")
        and hasattr(torch.ops.quantized, "linear_prepack")
    )


@torch.inference_mode()
def overflows() -> bool:
    """Whether activations of 8 bits are too wide for this CPU, which then takes 7.

    Without VNNI the operators add two products in 16 bits, which 255 * 127 + 255 * 127 is too much for. Tried, since
    what the operators do depends on the build as well.
    """
    linear = nn.Linear(64, 1, bias=False)
    nn.init.ones_(linear.weight)
    rows = torch.ones(1, 64)
    return abs(float(Int8Linear(linear, narrow=False)(rows)) - 64.0) > 1.0


@torch.inference_mode()
def quantize_linears(model: nn.Module) -> int:
    """Replace every `nn.Linear` in `model` by its twin of 8 bits; the number replaced."""
    layers = [(name, layer) for name, layer in model.named_modules() if type(layer) is nn.Linear]
    narrow = overflows()
    for name, layer in layers:
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, Int8Linear(layer, narrow=narrow))
    return len(layers)
