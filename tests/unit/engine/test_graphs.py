"""Decode passes as graphs, over doubles of CUDA graphs and of flash-attn that enforce their rules. No GPU is used."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from minedraft.engine.runner import Engine, Feed, new_store
from minedraft.errors import InternalError, SetupError
from minedraft.kv.store import KVStore
from minedraft.model import graphs, selfcheck
from minedraft.model.attention import AttentionPlan
from minedraft.model.flash import FlashBackend
from minedraft.model.graphs import DecodeGraphs
from minedraft.model.hf import HFModel
from minedraft.model.llama import LlamaModel
from minedraft.model.sdpa import SdpaBackend
from tests.models import tiny_model
from tests.unit.engine.flash_double import flash_attn_varlen_func
from tests.unit.engine.graph_double import GraphDeviceDouble, RuleBroken
from tests.unit.engine.helpers import begun, feed, item

PAGE, BLOCKS, MAX_LEN = 256, 12, 600


def flash_model(kind: type[HFModel] = LlamaModel, dtype: str = "bfloat16") -> HFModel:
    made = tiny_model(dtype=dtype, max_len=MAX_LEN)
    return kind(made.module, model_id="flash", backend=FlashBackend(flash_attn_varlen_func))


class Captured:
    """An engine whose model replays graphs, and what is around it."""

    def __init__(self, kind: type[HFModel] = LlamaModel, sizes: tuple[int, ...] = (1, 2, 4)) -> None:
        self.model = flash_model(kind)
        self.store = new_store(self.model, BLOCKS, PAGE, spare_blocks=1)
        self.device = GraphDeviceDouble()
        self.graphs = DecodeGraphs(self.model, self.store, max_len=MAX_LEN, device=self.device, sizes=sizes)
        self.model.use_graphs(self.graphs)
        self.engine = Engine(self.model, BLOCKS, PAGE, "captured", self.store)


def plain(kind: type[HFModel] = LlamaModel) -> Engine:
    model = flash_model(kind)
    return Engine(model, BLOCKS, PAGE, "plain", new_store(model, BLOCKS, PAGE, spare_blocks=1))


def decode(on: Engine, rounds: int = 6) -> list[Tensor]:
    """Prompts of other lengths, one across a block's end, then tokens one by one, with sequences that come and go."""
    lens = dict(enumerate((3, 255, 40, 1, 90)))
    logits = [feed(on, item(number, 0, [20 + number] * length)) for number, length in lens.items()]
    for turn in range(rounds):
        going = [number for number in lens if (number + turn) % 5 <= turn]
        sequences = {number: begun(on, item(number, lens[number], (30 + 7 * turn + number,))) for number in going}
        logits.append(on.forward([Feed(one, one.feed, 1) for one in sequences.values()]))
        for number in going:
            lens[number] += 1
    return logits


@pytest.mark.parametrize("kind", [HFModel, LlamaModel])
def test_replays_equal_computed_passes(kind: type[HFModel]) -> None:
    captured, computed = Captured(kind), plain(kind)
    for ours, reference in zip(decode(captured.engine), decode(computed), strict=True):
        assert ours.isfinite().all()
        assert selfcheck.relative_difference(ours, reference) < 0.02
    # One, two, three (padded to four) and four sequences were replayed, five and the prompts computed.
    assert captured.device.replays == 4 + 1  # the prompt of one token is a decode pass too


def test_padding_touches_only_the_spare_block() -> None:
    captured = Captured(sizes=(4,))
    for number in (1, 2, 3):
        feed(captured.engine, item(number, 0, [40 + number] * 10))
    for tensor in (*captured.store.keys, *captured.store.values):
        tensor[BLOCKS * PAGE :] = 0  # the captures left something there
    before = [tensor.clone() for tensor in (*captured.store.keys, *captured.store.values)]
    sequences = [begun(captured.engine, item(number, 10, (50,))) for number in (1, 2, 3)]
    captured.engine.forward([Feed(one, one.feed, 1) for one in sequences])
    written = {int(one.table.slots(10, 11)[0]) for one in sequences} | {BLOCKS * PAGE}
    for was, tensor in zip(before, (*captured.store.keys, *captured.store.values), strict=True):
        changed = (was != tensor).flatten(1).any(dim=1).nonzero().flatten().tolist()
        assert set(changed) == written


def test_logits_outlive_the_next_replay() -> None:
    on = Captured().engine
    feed(on, item(1, 0, (5, 6, 7)))
    first = feed(on, item(1, 3, (8,)))
    kept = first.clone()
    feed(on, item(1, 4, (9,)))
    assert torch.equal(first, kept)


def test_other_passes_are_computed() -> None:
    captured = Captured(sizes=(2,))
    on = captured.engine
    feed(on, item(1, 0, (5, 6, 7)))  # a prompt
    feed(on, item(1, 3, (8,)), (9, 10))  # a verification
    one = begun(on, item(1, 4, (11,)))
    on.forward([Feed(one, one.feed, 0)])  # no logits wanted
    begun(on, item(2, 0, (5,)))
    sequences = [begun(on, item(number, 0, (number,))) for number in (3, 4, 5)]
    on.forward([Feed(one, one.feed, 1) for one in sequences])  # more than the largest graph
    assert captured.device.replays == 0
    with torch.inference_mode():
        assert selfcheck.check(captured.model) < 0.1  # over stores of its own
    assert captured.device.replays == 0


def test_sizes_without_use_are_not_captured() -> None:
    model = flash_model()
    store = new_store(model, 3, PAGE, spare_blocks=1)
    captured = DecodeGraphs(model, store, max_len=MAX_LEN, device=GraphDeviceDouble())
    assert captured.sizes == (1, 2, 4)


def test_the_self_check_of_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = Captured()
    assert selfcheck.check_graphs(captured.model, captured.graphs, captured.store) < 0.02
    captured = Captured()
    monkeypatch.setattr(graphs, "fill_block_table", lambda *_: None)  # every row still reads the spare block
    with pytest.raises(SetupError, match="a replayed CUDA graph differs from the pass that it captured by"):
        selfcheck.check_graphs(captured.model, captured.graphs, captured.store)


def test_sdpa_cannot_be_captured() -> None:
    model = tiny_model(dtype="float32")
    assert isinstance(model.backend, SdpaBackend)
    store = new_store(model, BLOCKS, PAGE, spare_blocks=1)
    with pytest.raises(SetupError, match=r"--cuda-graphs needs flash_attn.*sdpa gathers a context of another shape"):
        DecodeGraphs(model, store, max_len=MAX_LEN, device=GraphDeviceDouble())


def test_a_store_without_a_spare_block_is_refused() -> None:
    model = flash_model()
    with pytest.raises(InternalError, match="no spare block"):
        DecodeGraphs(model, new_store(model, 4, PAGE), max_len=MAX_LEN, device=GraphDeviceDouble())


def test_another_backend_drops_the_graphs() -> None:
    captured = Captured()
    feed(captured.engine, item(1, 0, (5, 6, 7)))
    captured.model.use_backend(FlashBackend(flash_attn_varlen_func))
    feed(captured.engine, item(1, 3, (8,)))
    assert captured.device.replays == 0


# Passes that break a rule of capture.


class Spoiled(LlamaModel):
    """A pass with something in it that no graph can hold."""

    def compute(
        self, token_ids: Tensor, positions: Tensor, slots: Tensor, rows: Tensor, plan: AttentionPlan, store: KVStore
    ) -> Tensor:
        return self.spoil(super().compute(token_ids, positions, slots, rows, plan, store))

    def spoil(self, logits: Tensor) -> Tensor:
        raise NotImplementedError


class Waits(Spoiled):
    def spoil(self, logits: Tensor) -> Tensor:
        return logits if logits.sum().item() else logits * 2


class Ragged(Spoiled):
    def spoil(self, logits: Tensor) -> Tensor:
        return logits[logits[:, 0] < torch.inf]


class FromHost(Spoiled):
    def spoil(self, logits: Tensor) -> Tensor:
        return logits * torch.tensor([2.0], dtype=logits.dtype)


@pytest.mark.parametrize(
    ("kind", "rule"), [(Waits, "NO_SYNC: item"), (Ragged, "NO_SYNC: index"), (FromHost, "NO_HOST")]
)
def test_a_pass_that_cannot_be_captured(kind: type[HFModel], rule: str) -> None:
    with pytest.raises(SetupError, match=rf"architecture llama cannot be captured \({rule}.*\); leave the flag out"):
        Captured(kind)


def test_a_moved_input_is_noticed() -> None:
    """What the double's last rule is worth: on a GPU the replay would read freed memory without a word."""
    captured = Captured()
    feed(captured.engine, item(1, 0, (5, 6, 7)))
    captured.store.keys[1] = captured.store.keys[1].clone()
    with pytest.raises(InternalError, match="ADDRESSES: an input of the captured pass was freed"):
        feed(captured.engine, item(1, 3, (8,)))


def test_cold_and_nested_captures_are_refused() -> None:
    device = GraphDeviceDouble()
    with pytest.raises(RuleBroken, match="WARM_UP"):
        device.capture(lambda: torch.zeros(1))

    def nested() -> Tensor:
        return device.capture(nested)[1] if device.capturing else torch.zeros(1)

    device.warm_up(nested)
    with pytest.raises(RuleBroken, match="ALONE"):
        device.capture(nested)


# The real device, over a recorder of `torch.cuda`.


class Recorder:
    """Stands for the parts of torch.cuda that captures use, and notes the calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        recorder = self

        class Stream:
            def __init__(self, device: torch.device) -> None:
                recorder.calls.append("side stream")
                self.name = "side"

            def wait_stream(self, other: Any) -> None:
                recorder.calls.append(f"{self.name} waits for {other.name}")

            def synchronize(self) -> None:
                recorder.calls.append(f"host waits for {self.name}")

        class Current(Stream):
            def __init__(self) -> None:
                self.name = "current"

        @contextmanager
        def stream(which: Any) -> Any:
            recorder.calls.append(f"on {which.name}")
            yield
            recorder.calls.append("off")

        @contextmanager
        def graph(captured: Any, *, pool: Any, stream: Any) -> Any:
            recorder.calls.append(f"capture on {stream.name} in {pool}")
            yield
            recorder.calls.append("captured")

        self.parts = {
            "Stream": Stream,
            "stream": stream,
            "graph": graph,
            "CUDAGraph": object,
            "current_stream": lambda device: Current(),
            "graph_pool_handle": lambda: "pool",
        }


def test_the_order_of_a_real_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    for name, part in recorder.parts.items():
        monkeypatch.setattr(torch.cuda, name, part)

    def work() -> Tensor:
        recorder.calls.append("work")
        return torch.zeros(1)

    device = graphs.CudaGraphs(torch.device("cuda"))
    for _ in range(2):
        device.warm_up(work)
        device.capture(work)
    device.synchronize()
    once = [
        "side waits for current", "on side", "work", "work", "work", "off", "current waits for side",
        "host waits for side", "capture on side in pool", "work", "captured",
    ]  # fmt: skip
    assert recorder.calls == ["side stream", *once, *once, "host waits for current"]
