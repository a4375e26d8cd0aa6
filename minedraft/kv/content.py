"""Names of full KV blocks by what they hold: the tokens of the block and all tokens before them. Torch-free.

K and V of a token depend on every token before it, so a name covers the whole text up to the end of its block: a digest
of the name before and the block's own tokens. Prefix caching by such chains is vLLM's (Kwon et al. 2023,
arXiv 2309.06180, section 4.3, describes the sharing).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Final

import numpy as np

NOTHING: Final = b""  # the name before the first block
NAME_BYTES: Final = 32  # collisions would serve one text the K and V of another, so they must not be findable


def names(before: bytes, token_ids: Sequence[int], block_size: int) -> Iterator[bytes]:
    """The name of each full block of `token_ids`, which follow the text that `before` names."""
    for start in range(0, len(token_ids) - block_size + 1, block_size):
        tokens = np.asarray(token_ids[start : start + block_size], dtype=np.int64).tobytes()
        before = blake2b(before + tokens, digest_size=NAME_BYTES).digest()
        yield before
