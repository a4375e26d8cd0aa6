"""The engine as a state machine over a tiny float64 model.

Whatever is begun, fed, refused, aborted and released: no block is lost or owned twice, what is cached agrees with an
account of what was fed, and logits equal those of one fresh pass over the same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from torch import Tensor

from minedraft.engine.runner import Engine, Feed, Refusal, Sequence
from minedraft.errors import InternalError
from minedraft.kv.store import KVStore
from minedraft.model.hf import HFModel
from minedraft.model.ragged import RaggedBatch
from minedraft.types import AcceptanceRule, ItemStatus, SamplingParams, SequenceParams, VerifyItem
from tests.models import tiny_model

MAX_LEN, BLOCK_SIZE = 40, 4
PARAMS = SequenceParams(1, 1, AcceptanceRule.MATCH, SamplingParams())
KEYS = st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 2))
TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=18)
DRAFTS = st.lists(st.integers(0, 3), max_size=5)
Key = tuple[str, int]


class Breakable(HFModel):
    """Fails on demand, after it has written K and V."""

    broken = False

    def forward(self, batch: RaggedBatch, store: KVStore) -> Tensor:
        logits = super().forward(batch, store)
        if self.broken:
            raise RuntimeError("broken on demand")
        return logits


torch.set_num_threads(1)
MODEL = Breakable(tiny_model(layers=2, hidden=16, max_len=MAX_LEN, vocab_size=256).module, model_id="tiny")
FRESH: dict[tuple[int, ...], Tensor] = {}


@torch.inference_mode()
def fresh(token_ids: tuple[int, ...]) -> Tensor:
    """Logits of every token from one pass of the stock model, [n, V]."""
    if token_ids not in FRESH:
        MODEL.use_attention("sdpa")
        FRESH[token_ids] = MODEL.module(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
        MODEL.use_attention("minedraft_paged")
    return FRESH[token_ids]


class Engines(RuleBasedStateMachine):
    """An engine beside an account of committed and cached tokens."""

    sharing = False

    def __init__(self) -> None:
        super().__init__()
        self.committed: dict[Key, list[int]] = {}
        self.cached: dict[Key, list[int]] = {}

    @initialize(num_blocks=st.integers(6, 30))
    def build(self, num_blocks: int) -> None:
        self.engine = Engine(MODEL, num_blocks, BLOCK_SIZE, "instance", share_prefixes=self.sharing)
        self.num_blocks = num_blocks

    def begin(self, key: Key, base_len: int, drafts: Seq[int]) -> Sequence | Refusal:
        """Begin what the account says is committed, and check the answer against the account."""
        committed, cached = self.committed[key], self.cached.get(key)
        tail = tuple(committed[base_len:])
        item = VerifyItem(key[1], base_len, tail, PARAMS if base_len == 0 else None)
        answer = self.engine.begin(key[0], item, len(drafts))
        if len(committed) + len(drafts) > self.engine.info.max_len:
            assert isinstance(answer, Refusal)
            assert (answer.status, answer.cached_len) == (ItemStatus.REJECTED, len(cached or ()))
            return answer
        if len(cached or ()) < base_len:
            assert isinstance(answer, Refusal)
            assert (answer.status, answer.cached_len) == (ItemStatus.GAP, len(cached or ()))
            return answer
        keep = 0
        while keep < min(len(cached or ()), len(committed) - 1) and (cached or [])[keep] == committed[keep]:
            keep += 1
        if cached is not None:
            del cached[keep:]
        if self.sharing:
            self.follow(key, answer, keep)
        elif isinstance(answer, Refusal):
            assert (answer.status, answer.cached_len) == (ItemStatus.NO_SPACE, keep)
            self.engine.check_integrity()
        else:
            self.cached.setdefault(key, [])
            assert answer.feed == tuple(committed[keep:])
            assert (answer.cached_len, answer.committed_len) == (keep, len(committed))
        if isinstance(answer, Sequence):
            assert len(answer.table.blocks) == -(-(len(committed) + len(drafts)) // BLOCK_SIZE)
        return answer

    def follow(self, key: Key, answer: Sequence | Refusal, keep: int) -> None:
        """What is kept may be less, by a part of a block that others read, or more, by what others have computed."""
        committed = self.committed[key]
        self.engine.check_integrity()
        assert answer.cached_len >= keep // BLOCK_SIZE * BLOCK_SIZE
        if isinstance(answer, Refusal):
            assert answer.status is ItemStatus.NO_SPACE
            if key not in self.cached:
                assert answer.cached_len == 0
                return
        else:
            assert answer.token_ids == committed[: answer.cached_len]
            assert answer.feed == tuple(committed[answer.cached_len :])
            assert answer.committed_len == len(committed)
        self.cached[key] = committed[: answer.cached_len]

    def state_committed(self, key: Key, tokens: list[int], data: st.DataObject) -> int:
        """Extend what is committed by a first statement or a verdict; a base_len that the engine may believe."""
        committed, cached = self.committed.get(key), self.cached.get(key, [])
        if committed is None:
            self.committed[key] = tokens[: MAX_LEN - 1]
            return data.draw(st.sampled_from([0, 0, 0, 2]), label="base_len") if len(tokens) > 2 else 0
        agreed = len(committed)
        accepted = data.draw(st.integers(0, max(0, len(cached) - agreed)), label="accepted")
        committed += cached[agreed : agreed + accepted]
        committed += tokens[: 1 + accepted % 3]
        return data.draw(st.integers(0, agreed), label="base_len")

    @rule(key=KEYS, tokens=TOKENS, drafts=DRAFTS, data=st.data())
    def step(self, key: Key, tokens: list[int], drafts: list[int], data: st.DataObject) -> None:
        """One sequence through a step."""
        base_len = self.state_committed(key, tokens, data)
        self.forward([(key, base_len, drafts)])

    @rule(keys=st.lists(KEYS, min_size=2, unique=True), tokens=TOKENS, drafts=DRAFTS, data=st.data())
    def joint_step(self, keys: list[Key], tokens: list[int], drafts: list[int], data: st.DataObject) -> None:
        """Several sequences in one pass."""
        self.forward(
            [(key, self.state_committed(key, tokens, data), drafts[: index + 1]) for index, key in enumerate(keys)]
        )

    def forward(self, items: list[tuple[Key, int, list[int]]]) -> None:
        begun = [(key, self.begin(key, base_len, drafts), drafts) for key, base_len, drafts in items]
        feeds = [
            (key, Feed(answer, (*answer.feed, *drafts), len(drafts) + 1))
            for key, answer, drafts in begun
            if isinstance(answer, Sequence)
        ]
        logits = self.engine.forward([feed for _, feed in feeds])
        for (key, feed), rows in zip(feeds, torch.split(logits, [feed.num_logits for _, feed in feeds]), strict=True):
            self.cached[key] += feed.token_ids
            expected = fresh(tuple(self.cached[key]))[-feed.num_logits :]
            torch.testing.assert_close(rows, expected, rtol=0, atol=1e-9)

    @precondition(lambda self: self.committed)
    @rule(data=st.data(), drafts=DRAFTS)
    def failing_step(self, data: st.DataObject, drafts: list[int]) -> None:
        """The pass raises: the cache is what it was after `begin`."""
        key = data.draw(st.sampled_from(sorted(self.committed)), label="key")
        answer = self.begin(key, 0, drafts)
        if isinstance(answer, Refusal):
            return
        MODEL.broken = True
        try:
            with pytest.raises(InternalError, match="broken on demand"):
                self.engine.forward([Feed(answer, (*answer.feed, *drafts), 1)])
        finally:
            MODEL.broken = False
        assert len(answer.table.blocks) == -(-len(self.cached[key]) // BLOCK_SIZE)

    @precondition(lambda self: self.committed)
    @rule(data=st.data(), drafts=DRAFTS)
    def abandoned_step(self, data: st.DataObject, drafts: list[int]) -> None:
        """A step that is begun and never fed."""
        self.begin(data.draw(st.sampled_from(sorted(self.committed)), label="key"), 0, drafts)

    @rule(key=KEYS, beyond=st.integers(1, 5))
    def gap(self, key: Key, beyond: int) -> None:
        """An item that builds on what is not there."""
        cached_len = len(self.cached.get(key, ()))
        answer = self.engine.begin(key[0], VerifyItem(key[1], cached_len + beyond, (1,), None), 0)
        assert isinstance(answer, Refusal)
        assert answer.cached_len == cached_len
        assert answer.status in {ItemStatus.GAP, ItemStatus.REJECTED}

    @rule(keys=st.lists(KEYS, unique=True))
    def release(self, keys: list[Key]) -> None:
        for key in keys:
            self.engine.release(key[0], [key[1]])
            self.cached.pop(key, None)
            self.committed.pop(key, None)

    @rule(keys=st.lists(KEYS, unique=True))
    def lose(self, keys: list[Key]) -> None:
        """The cache vanishes; what is committed does not."""
        for key in keys:
            self.engine.release(key[0], [key[1]])
            self.cached.pop(key, None)

    @rule(lease=st.sampled_from(["a", "b"]))
    def release_lease(self, lease: str) -> None:
        self.engine.release_lease(lease)
        for key in [key for key in self.committed if key[0] == lease]:
            self.cached.pop(key, None)
            del self.committed[key]

    @invariant()
    def nothing_is_lost(self) -> None:
        self.engine.check_integrity()
        state = self.engine.state()
        assert state.sequences == len(self.cached)
        if not self.cached:
            assert state.free_blocks == self.num_blocks

    def teardown(self) -> None:
        for lease in ("a", "b"):
            self.engine.release_lease(lease)
        assert self.engine.state().free_blocks == self.num_blocks


Engines.TestCase.settings = settings(max_examples=120, stateful_step_count=25, deadline=None)
TestEngines = Engines.TestCase


class SharingEngines(Engines):
    """The same with blocks that are shared: whatever is adopted, logits are those of a fresh pass."""

    sharing = True


SharingEngines.TestCase.settings = Engines.TestCase.settings
TestSharingEngines = SharingEngines.TestCase
