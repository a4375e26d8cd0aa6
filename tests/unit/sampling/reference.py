"""The laws of `docs/sampling.md` once more, in plain numpy, one row at a time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from minedraft.types import SamplingParams

Law = NDArray[np.float64]


def adjusted(
    logits: Law, sampling: SamplingParams, prompt: Sequence[int], output: Sequence[int], eos: Sequence[int]
) -> Law:
    """Logits after bias, penalties and forbidden EOS. [V]"""
    out = np.array(logits, dtype=np.float64)
    for token, bias in sampling.logit_bias.items():
        out[token] += bias
    for token in set(prompt) | set(output):
        out[token] = (
            (out[token] / sampling.repetition_penalty) if out[token] > 0 else (out[token] * sampling.repetition_penalty)
        )
    for token in set(output):
        out[token] -= sampling.frequency_penalty * list(output).count(token) + sampling.presence_penalty
    if len(output) < sampling.min_new_tokens:
        for token in set(eos) | set(sampling.stop_token_ids):
            out[token] = -np.inf
    return out


def law(logits: Law, sampling: SamplingParams) -> Law:
    """The law of one token from adjusted logits. [V]"""
    if sampling.temperature == 0:
        return np.asarray(np.eye(len(logits))[int(np.argmax(logits))])
    x = logits / sampling.temperature
    p = softmax(x)
    if sampling.min_p > 0:
        p = renormalised(p, p >= sampling.min_p * p.max())
    if sampling.top_k > 0:
        p = renormalised(p, p >= np.sort(p)[::-1][min(sampling.top_k, len(p)) - 1])
    if sampling.top_p < 1:
        ordered = np.sort(p)[::-1]
        needed = next((n for n in range(1, len(p) + 1) if ordered[:n].sum() >= sampling.top_p), len(p))
        p = renormalised(p, p >= ordered[needed - 1])
    return p


def softmax(x: Law) -> Law:
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


def renormalised(p: Law, kept: NDArray[np.bool_]) -> Law:
    q = np.where(kept, p, 0.0)
    return np.asarray(q / q.sum())
