"""Linear layers with their weights laid out for oneDNN, once, instead of in every call.

On a CPU most of a small model's pass is matrix multiplication with few rows. Stock `linear` hands oneDNN plain weights
each time; weights packed ahead are read about twice as fast at 1 to 8 rows, and the result is the same to rounding. The
operators are those of TorchInductor's freezing (`torch/_inductor/fx_passes/mkldnn_fusion.py`).
"""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn

from minedraft.errors import SetupError

DTYPES: Final = (torch.float32, torch.bfloat16)
TOLERANCES: Final = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # of the largest output


class PackedLinear(nn.Module):
    """Stands for an `nn.Linear` on the CPU, for inference. Holds no parameters: it cannot be moved, cast or saved."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        operators: Any = torch.ops.mkldnn
        self.out_features = linear.out_features
        self._apply_packed: Any = operators._linear_pointwise.default  # the overload: naming it saves a search a call
        # Plain attributes: as parameters or buffers they would be listed where only plain tensors are expected.
        self._packed = (operators._reorder_linear_weight(linear.weight.detach(), None),)
        bias: Any = linear.bias  # may be None, whatever its annotation says
        self._bias = (None if bias is None else bias.detach(),)

    def forward(self, rows: Tensor) -> Tensor:
        """[..., in] -> [..., out]."""
        if rows.numel() == 0:
            return rows.new_empty(*rows.shape[:-1], self.out_features)
        output: Tensor = self._apply_packed(rows, self._packed[0], self._bias[0], "none", [], "")
        return output


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether this CPU and this build of PyTorch have the operators for that dtype."""
    onednn: Any = torch.backends.mkldnn
    if device.type != "cpu" or dtype not in DTYPES or not onednn.is_available():
        return False
    operators: Any = torch.ops.mkldnn
    if not all(hasattr(operators, name) for name in ("_linear_pointwise", "_reorder_linear_weight")):
        return False
    return dtype is torch.float32 or bool(operators._is_mkldnn_bf16_supported())


@torch.inference_mode()
def pack_linears(model: nn.Module) -> int:
    """Replace every `nn.Linear` in `model` by its packed twin; the number replaced.

    Each twin is compared with its original on one row of random numbers. Raises SetupError when they differ.
    """
    generator = torch.Generator().manual_seed(0)
    layers = [(name, layer) for name, layer in model.named_modules() if type(layer) is nn.Linear]
    for name, layer in layers:
        twin = PackedLinear(layer)
        row = torch.randn(1, layer.in_features, generator=generator).to(layer.weight.dtype)
        expected = layer(row)
        worst, scale = float((twin(row) - expected).abs().max()), float(expected.abs().max())
        if not worst <= TOLERANCES[layer.weight.dtype] * scale:  # NaN fails too
            raise SetupError(
                f"packed weights of {name} are wrong on this CPU (off by {worst:.2g} of {scale:.2g}): "
                "report this as a fault of PyTorch and use --dtype float64"
            )
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, twin)
    return len(layers)
