"""A draft model that knows only the frequent tokens of its target.

The output layer is most of a small draft model's cost. With one row for each *frequent* token and a map to the target's
ids it is a fraction, and drafts stay exact: tokens outside have q = 0, which is as good a law as any. Input tokens are
all known. The checkpoint has `draft_vocab_size` in its config and a tensor `d2t`, int64 [draft vocabulary], of
`target id - draft id`: the form that EAGLE-3 checkpoints use (Li et al. 2025, arXiv 2503.01840).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import safe_open
from torch import Tensor, nn

from minedraft.errors import SetupError

if TYPE_CHECKING:  # importing transformers takes seconds, which a simulated model need not wait for
    from transformers import PretrainedConfig, PreTrainedModel

SIZE: Final = "draft_vocab_size"
MAP: Final = "d2t"
HEAD: Final = "lm_head"
ATTRIBUTE: Final = "draft_token_ids"


def widen(logits: Tensor, token_ids: Tensor, vocab_size: int) -> Tensor:
    """Logits under the target's ids, -inf for tokens that are not in the draft vocabulary. [R, n] -> [R, V]"""
    wide = logits.new_full((len(logits), vocab_size), -torch.inf)
    wide[:, token_ids] = logits
    return wide


def known_tokens(module: PreTrainedModel) -> Tensor | None:
    """Target ids of the module's logits, int64 [n], rising; None when it has one for every token."""
    found: Tensor | None = getattr(module, ATTRIBUTE, None)
    return found


def to_map(token_ids: Tensor) -> Tensor:
    """Target ids of the draft tokens, int64 [n], as the checkpoint has them."""
    return token_ids - torch.arange(len(token_ids))


def load_draft(folder: Path, config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model of a checkpoint with a draft vocabulary. Raises SetupError when its tensors do not fit its config."""
    from transformers import AutoModelForCausalLM

    factory: Any = AutoModelForCausalLM
    config.tie_word_embeddings = False
    model: Any = factory.from_config(config, dtype=dtype)
    size, vocab_size = int(getattr(config, SIZE)), int(config.vocab_size)
    if not isinstance(getattr(model, HEAD, None), nn.Linear):
        raise SetupError(f"{folder}: architecture {config.model_type} does not let its output layer be replaced")
    tensors: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  # no mapping
    offsets = tensors.pop(MAP, None)
    if offsets is None or offsets.shape != (size,) or offsets.dtype != torch.int64:
        raise SetupError(f"{folder}: {MAP} must be int64 [{size}], as {SIZE} in config.json says")
    token_ids = offsets + torch.arange(size)
    if not (bool((token_ids.diff() > 0).all()) and int(token_ids[0]) >= 0 and int(token_ids[-1]) < vocab_size):
        raise SetupError(f"{folder}: {MAP} does not map to rising token ids below {vocab_size}")
    linear = nn.Linear(config.hidden_size, size, bias=False, dtype=dtype)
    setattr(model, HEAD, linear)
    try:
        model.load_state_dict(tensors, strict=True)
    except RuntimeError as error:
        raise SetupError(
            f"the weights in {folder} do not fit their config.json: {' '.join(str(error).split())[:300]}"
        ) from None
    model.register_buffer(ATTRIBUTE, token_ids, persistent=False)
    loaded: PreTrainedModel = model
    return loaded
