"""Which architectures are served, and how long their sequences may be. Torch-free.

An architecture is on the list when `tests/unit/engine` shows that its logits through our paged attention equal those of
the stock model. Others may ask attention for things that are ignored without a word, so they are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from minedraft.errors import SetupError

SUPPORTED: Final = frozenset(
    {
        "arcee", "cohere", "ernie4_5", "gemma", "glm", "gpt2", "gpt_neox", "granite", "llama", "mistral", "mixtral",
        "olmo", "olmo2", "opt", "phi", "phi3", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "seed_oss", "smollm3",
        "starcoder2",
    }
)  # fmt: skip

# Those that `tests/services/test_shards.py` shows to compute the same when they are split over ranks. For the others
# `transformers` has no tensor-parallel plan.
SHARDED: Final = SUPPORTED - {"gpt2", "opt"}


def check_architecture(model_type: str) -> None:
    """Raises SetupError for an architecture that is not served."""
    if model_type not in SUPPORTED:
        known = ", ".join(sorted(SUPPORTED))
        raise SetupError(f"architecture {model_type or 'unknown'} is not supported: use a model of one of {known}")


def longest(config: object, wanted: int) -> int:
    """Longest sequence, tokens: `wanted`, or the model's own limit when that is 0.

    `config` is the model's configuration from `transformers`. Raises SetupError when the model cannot do that length,
    naming the longest that it can do here.
    """
    own = getattr(config, "max_position_embeddings", None)
    if not isinstance(own, int):
        raise SetupError("the model's config.json has no max_position_embeddings: use a model that states its limit")
    length = wanted or own
    if length > own:
        raise SetupError(f"--max-len {length} is more than the model's {own} tokens: give at most --max-len {own}")
    for limit, why in (
        (_window(config), "attends to a sliding window of"),
        (_steady_rope(config), "changes its rope past"),
    ):
        if limit is not None and length > limit:
            raise SetupError(
                f"the model {why} {limit} tokens, which is not supported for {length}: give --max-len {limit} or less"
            )
    return length


def _window(config: object) -> int | None:
    """The sliding window of any layer, tokens."""
    window = getattr(config, "sliding_window", None)
    switched_off = getattr(config, "use_sliding_window", True) is False
    return window if isinstance(window, int) and not switched_off else None


def _steady_rope(config: object) -> int | None:
    """Length past which rotary embeddings depend on the longest sequence in the batch, tokens.

    There `longrope` and `dynamic` change the frequencies of all sequences at once, and K already cached is stale.
    """
    rope = getattr(config, "rope_parameters", None)
    if not isinstance(rope, Mapping):
        return None
    parameters: Mapping[str, Any] = rope
    if parameters.get("rope_type") == "longrope":
        limit = parameters.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        return int(limit) if limit is not None else None
    if parameters.get("rope_type") == "dynamic":
        own = getattr(config, "max_position_embeddings", None)
        return own if isinstance(own, int) else None
    return None
