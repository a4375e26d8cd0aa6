"""Splitting a model over ranks: what is refused before any process starts, and the leader's part without processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from transformers import AutoConfig

from minedraft.config import VerifierSettings
from minedraft.engine.build_parallel import build_parallel
from minedraft.engine.station import Station, choose_devices
from minedraft.errors import SetupError
from minedraft.kv.sizing import DeviceMemory
from minedraft.model.orders import Order, Pass, StockPass, TellMemory, UseBackend, UseStore
from minedraft.model.parallel import FollowerModel, ParallelModel, kv_heads_of_a_rank
from minedraft.model.ragged import Segment, assemble
from minedraft.model.sdpa import SdpaBackend
from tests.models import tiny_llama, tiny_model


def refused(match: str, **settings: Any) -> None:
    with pytest.raises(SetupError, match=match):
        build_parallel(VerifierSettings(tensor_parallel=2, device="cpu", **settings))


def test_heads_that_cannot_be_split_evenly(tmp_path: Path) -> None:
    folder = str(tiny_llama(tmp_path / "three", heads=6, kv_heads=3, hidden=48))
    refused("3 KV heads cannot be split evenly over 2 ranks: give 3, or leave the flag out", model=folder)


def test_one_head_cannot_be_split() -> None:
    config = AutoConfig.for_model("llama", num_attention_heads=4, num_key_value_heads=1)
    with pytest.raises(SetupError, match="1 KV heads cannot be split evenly over 4 ranks: leave the flag out"):
        kv_heads_of_a_rank(config, 4)


def test_heads_of_a_rank() -> None:
    config = AutoConfig.for_model("llama", num_attention_heads=32, num_key_value_heads=8)
    assert [kv_heads_of_a_rank(config, ranks) for ranks in (2, 4, 8)] == [4, 2, 1]
    stays_whole = AutoConfig.for_model("phi3", num_attention_heads=32, num_key_value_heads=8)
    assert kv_heads_of_a_rank(stays_whole, 2) == 8


@pytest.mark.parametrize("architecture", ["gpt2", "opt"])
def test_architectures_without_a_plan(architecture: str) -> None:
    with pytest.raises(SetupError, match=f"architecture {architecture} cannot be split over ranks"):
        kv_heads_of_a_rank(AutoConfig.for_model(architecture), 2)


def test_settings_that_do_not_go_together(tmp_path: Path) -> None:
    folder = str(tiny_llama(tmp_path / "model"))
    refused("leave it out with --simulate", simulate="verifier=1ms")
    refused("no model was given")
    refused("weights of 8 bits cannot be split", model=folder, weights="int8")
    (tmp_path / "packed.gguf").write_bytes(b"GGUF")
    refused("a GGUF model cannot be split", model=str(tmp_path / "packed.gguf"))


def test_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_devices("auto", 2) == ["cpu", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_devices("auto", 2) == ["cuda:0", "cuda:1"]
    with pytest.raises(SetupError, match="needs as many GPUs, and torch finds 2: give --tensor-parallel 2"):
        choose_devices("cuda", 3)
    with pytest.raises(SetupError, match="takes the GPUs 0 to 1"):
        choose_devices("cuda:1", 2)
    with pytest.raises(SetupError, match="hide them with the variable CUDA_VISIBLE_DEVICES"):
        choose_devices("cpu", 2)


def test_a_station_arrives_as_it_was_sent() -> None:
    sent = Station(1, 2, 4711, "/models/a b", "auto", "cpu", 0, 1, 0.5, "info", "json")
    assert Station.of_argument(sent.to_argument()) == sent
    for wrong in ("", "{}", "[]", '{"rank": 1}'):
        with pytest.raises(SetupError, match="arguments that it cannot read"):
            Station.of_argument(wrong)


class Ended(BaseException):
    """In the place of the process's end."""


class Recorder:
    """Peers that only listen."""

    def __init__(self) -> None:
        self.orders: list[Order] = []

    def tell(self, order: Order) -> None:
        self.orders.append(order)

    def fail(self, reason: str) -> NoReturn:
        raise Ended(reason)

    def close(self) -> None:
        self.orders.clear()


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A group of one rank: what it has is the smallest."""
    monkeypatch.setattr("minedraft.model.process_group.smallest", lambda values, device: values)


@pytest.mark.usefixtures("alone")
def test_the_leader_tells_what_it_does_before_it_does_it() -> None:
    peers = Recorder()
    whole = tiny_model()
    leader = ParallelModel(tiny_model().module, ranks=1, peers=peers, model_id="tiny")
    follower = FollowerModel(tiny_model().module, ranks=1, model_id="tiny")
    store, other = leader.new_store(4, 4), leader.new_store(4, 4)
    batch = assemble([Segment([5, 6, 7], 0, torch.arange(3).numpy(), 1)])
    logits = leader.forward(batch, store)
    torch.testing.assert_close(logits, whole.forward(batch, other))
    leader.forward(batch, store)
    leader.stock_logits([1, 2])
    leader.use_backend(SdpaBackend())
    assert leader.worst_memory(DeviceMemory(10, 5, 2)) == DeviceMemory(10, 5, 2)
    kinds = [type(order) for order in peers.orders]
    assert kinds == [UseStore, Pass, Pass, StockPass, UseBackend, TellMemory]
    for order in peers.orders:
        follower.obey(order, lambda: DeviceMemory(1, 1))
    assert follower._store is not None
    torch.testing.assert_close(follower._store.keys[1][:3], store.keys[1][:3])


@pytest.mark.usefixtures("alone")
def test_a_failed_pass_ends_the_process() -> None:
    leader = ParallelModel(tiny_model().module, ranks=1, peers=Recorder(), model_id="tiny")
    batch = assemble([Segment([10_000], 0, torch.arange(1).numpy(), 1)])
    with pytest.raises(Ended, match="rank 0 failed: index out of range"):
        leader.forward(batch, leader.new_store(1, 4))


def test_a_pass_before_there_is_a_store_is_a_fault() -> None:
    follower = FollowerModel(tiny_model().module, ranks=1, model_id="tiny")
    batch = assemble([Segment([1], 0, torch.arange(1).numpy(), 1)])
    with pytest.raises(Exception, match="before there was a KV store"):
        follower.obey(Pass(batch), lambda: DeviceMemory(1, 1))
