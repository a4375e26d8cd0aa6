"""Which attention backend a model gets, and why.

What the machine offers is `find_flash`'s to say; what the model and the settings allow is decided here, so that the
decision runs without a device. flash_attn itself was not yet run on a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch

from minedraft.errors import SetupError
from minedraft.model import flash
from minedraft.model.attention import AttentionBackend
from minedraft.model.flash import FlashBackend, FlashFunction, find_flash
from minedraft.model.sdpa import SdpaBackend

AUTO: Final = "auto"
SDPA: Final = SdpaBackend.name
FLASH: Final = flash.NAME
SDPA_BLOCK: Final = 16  # tokens in a block by default; any number works

Finder = Callable[[torch.device], tuple[FlashFunction | None, str]]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a model asks of attention."""

    dtype: torch.dtype
    head_dim: int
    device: torch.device


@dataclass(frozen=True, slots=True)
class Choice:
    """A backend, and the reason why it is not another: for the log."""

    backend: AttentionBackend
    reason: str


def choose(wanted: str, shape: Shape, block_size: int, find: Finder = find_flash) -> Choice:
    """The backend for `wanted`: auto, sdpa or flash_attn. `block_size` 0 leaves it to the backend.

    auto takes flash_attn where it can. Raises SetupError with the reason when flash_attn is wanted and cannot be.
    """
    if wanted == SDPA:
        return Choice(SdpaBackend(), "--attention sdpa was given")
    if problem := _misfit(shape, block_size):
        function = None
    else:
        function, problem = find(shape.device)
    if function is not None:
        reason = f"--attention {wanted} was given" if wanted == FLASH else "device, package and model allow it"
        return Choice(FlashBackend(function, block_size or flash.PAGE), reason)
    if wanted == FLASH:
        raise SetupError(f"--attention flash_attn is not possible: {problem}; give --attention auto or sdpa")
    return Choice(SdpaBackend(), f"flash_attn is not possible: {problem}")


def default_block_size(backend_name: str) -> int:
    """Tokens in a KV block when the settings leave it open."""
    return flash.PAGE if backend_name == FLASH else SDPA_BLOCK


def _misfit(shape: Shape, block_size: int) -> str:
    """Why flash-attn cannot serve the model or the block size, "" when it can."""
    if shape.dtype not in flash.DTYPES:
        return f"it computes in float16 or bfloat16, and the model is {str(shape.dtype).removeprefix('torch.')}"
    if shape.head_dim > flash.MAX_HEAD_DIM or shape.head_dim % flash.HEAD_DIM_MULTIPLE:
        return (
            f"it takes heads of at most {flash.MAX_HEAD_DIM} numbers, a multiple of {flash.HEAD_DIM_MULTIPLE}, and the "
            f"model's have {shape.head_dim}"
        )
    if block_size % flash.PAGE:
        return f"its pages are multiples of {flash.PAGE} tokens, and --block-size is {block_size}"
    return ""
