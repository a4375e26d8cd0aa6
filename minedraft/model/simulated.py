"""Models that sleep for a given time and answer by a known rule. Everything around them is the real code.

The target's token at position i is a hash of (token at i - 1, i). The drafter names the same token with a given
probability, which another hash of the same pair decides: acceptance is independent at each position, and every run is
the same.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from minedraft.kv.store import KVStore
from minedraft.model.byte_tokenizer import EOS_ID, byte_tokenizer
from minedraft.model.ragged import RaggedBatch
from minedraft.model.simulated_spec import SimulationSpec
from minedraft.types import TokenizerFiles

FIRST_TOKEN: Final = 16  # ids below are control bytes, the end among them: never chosen
MARGIN: Final = 1000.0  # logit of the chosen token; the others have 0, so that sampling follows it too
SPIN_SECONDS: Final = 100e-6

UintArray = NDArray[np.uint64]


class SimulatedModel:
    """A `CausalModel` without weights or attention. A pass takes `seconds`, whatever it is fed."""

    architecture = "simulated"
    attention_backend = "none"
    num_layers = 0
    kv_heads = 0
    head_dim = 0
    dtype = torch.float32
    device = torch.device("cpu")
    eos_token_ids = (EOS_ID,)
    logit_token_ids = None
    simulated = True

    def __init__(self, spec: SimulationSpec, *, model_id: str, seconds: float, accept: float) -> None:
        self.model_id = model_id
        self.vocab_size = spec.vocab
        self.max_len = spec.max_len
        self.tokenizer: TokenizerFiles = byte_tokenizer(spec.vocab)
        self.tokenizer_fingerprint = self.tokenizer.fingerprint
        self._seconds = seconds
        self._accept = accept

    def forward(self, batch: RaggedBatch, store: KVStore) -> Tensor:
        """See `CausalModel.forward`: float32 logits, after `seconds` since the call."""
        deadline = time.perf_counter() + self._seconds
        logits = torch.zeros(len(batch.logit_rows), self.vocab_size)
        if len(batch.logit_rows):
            chosen = self.choose(batch.token_ids[batch.logit_rows], batch.positions[batch.logit_rows] + 1)
            logits.scatter_(1, torch.from_numpy(chosen).unsqueeze(1), MARGIN)
        sleep_until(deadline)
        return logits

    def choose(self, previous: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """The tokens at `positions`, given those before them: [n]."""
        pairs = _mix(previous.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) ^ _mix(positions.astype(np.uint64)))
        size = np.uint64(self.vocab_size - FIRST_TOKEN)
        target = pairs % size
        coin = (_mix(pairs ^ np.uint64(0xD1B54A32D192ED03)) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        other = (target + np.uint64(1) + _mix(pairs ^ np.uint64(0xABC98388FB8FAC03)) % (size - np.uint64(1))) % size
        return np.where(coin < self._accept, target, other).astype(np.int64) + FIRST_TOKEN


def simulated_target(spec: SimulationSpec) -> SimulatedModel:
    """The verifier's model."""
    return SimulatedModel(spec, model_id="simulated-target", seconds=spec.verifier, accept=1.0)


def simulated_draft(spec: SimulationSpec) -> SimulatedModel:
    """The drafter's model, which agrees with the target with probability `spec.accept`."""
    return SimulatedModel(spec, model_id="simulated-draft", seconds=spec.drafter, accept=spec.accept)


def sleep_until(deadline: float) -> None:
    """Return at `deadline` on `time.perf_counter`'s scale: sleeps, then spins for the last 100 microseconds at most."""
    remaining = deadline - time.perf_counter()
    if remaining > SPIN_SECONDS:
        time.sleep(remaining - SPIN_SECONDS)
    while time.perf_counter() < deadline:
        pass


def _mix(values: UintArray) -> UintArray:
    """SplitMix64's finalizer (Steele, Lea & Flood 2014, doi 10.1145/2660193.2660195) on each element."""
    values = values + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
