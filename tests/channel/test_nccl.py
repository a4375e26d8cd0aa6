"""The nccl channel over the fake NCCL, through the real wrapper of nccl4py: handshakes, deadlines, dropped payloads."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import minedraft.channel.nccl as nccl_module
import minedraft.channel.nccl_link as link_module
from minedraft.channel.nccl import NcclReceiver, NcclSender
from minedraft.channel.nccl_library import Nccl4py
from minedraft.channel.payload_header import PayloadHeader
from minedraft.channel.side_stream import CudaSideStream
from minedraft.errors import ChannelError, InternalError
from minedraft.types import ChannelKind, ChannelSpec, PayloadRef
from tests.channel.fake_nccl import FakeCore, FakeFabric, FakeStream, NCCLConfig, NcclInvalid, UniqueId
from tests.channel.patience import eventually

SPEC = ChannelSpec("c1", 2, ChannelKind.NCCL, slots=3, slot_bytes=4096)
DEVICE = torch.device("cuda", 0)
DRAFTER_GPU = "6a1f7c0e-5f0a-4d0c-9d2e-000000000001"
VERIFIER_GPU = "6a1f7c0e-5f0a-4d0c-9d2e-000000000002"


@pytest.fixture
def fabric() -> Iterator[FakeFabric]:
    """A network whose users broke none of NCCL's rules."""
    fabric = FakeFabric()
    yield fabric
    assert fabric.violations == []
    assert eventually(lambda: fabric.alive == 0)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that are meant to pass pass soon."""
    monkeypatch.setattr(link_module, "HANDSHAKE_SECONDS", 0.3)
    monkeypatch.setattr(nccl_module, "RECEIVE_SECONDS", 0.2)


class Pair:
    """Both ends in this process, each with its own GPU and its own nccl4py."""

    def __init__(self, fabric: FakeFabric, owner_sends: bool = False, spec: ChannelSpec = SPEC) -> None:
        self.fabric = fabric
        self.sender = make_sender(fabric, DRAFTER_GPU, spec)
        self.receiver = make_receiver(fabric, VERIFIER_GPU, spec)
        self.owner: NcclSender | NcclReceiver = self.sender if owner_sends else self.receiver
        self.guest: NcclSender | NcclReceiver = self.receiver if owner_sends else self.sender

    def open(self) -> None:
        self.owner.seal(self.guest.join(self.owner.offer()))

    def send(self, tensor: Tensor) -> PayloadRef:
        slot = self.sender.acquire()
        assert slot is not None
        self.sender.write(slot, tensor)
        return self.sender.publish(slot, tensor.dtype, tuple(tensor.shape))

    def close(self) -> None:
        for end in (self.sender, self.receiver):
            end.close()
            assert end._link.wait_gone(10)


def make_sender(fabric: FakeFabric, gpu: str, spec: ChannelSpec = SPEC) -> NcclSender:
    return NcclSender(spec, DEVICE, Nccl4py(FakeCore(fabric, gpu)), FakeStream(fabric, gpu))


def make_receiver(fabric: FakeFabric, gpu: str, spec: ChannelSpec = SPEC) -> NcclReceiver:
    return NcclReceiver(spec, DEVICE, Nccl4py(FakeCore(fabric, gpu)), FakeStream(fabric, gpu))


@pytest.fixture
def opened(fabric: FakeFabric) -> Iterator[Pair]:
    pair = Pair(fabric)
    pair.open()
    yield pair
    pair.close()


@pytest.mark.parametrize("owner_sends", [False, True])
def test_payloads_arrive(fabric: FakeFabric, owner_sends: bool) -> None:
    pair = Pair(fabric, owner_sends)
    pair.open()
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.uint8):
        tensor = torch.arange(2 * 3 * 5).to(dtype).view(2, 3, 5)
        ref = pair.send(tensor)
        received = pair.receiver.receive(ref)
        assert received.dtype == dtype
        assert torch.equal(received, tensor)
        pair.receiver.release(ref)
        pair.sender.reclaim(ref.slot)
    assert pair.sender.free_slots == SPEC.slots
    pair.close()


def test_payloads_of_a_batch_may_be_taken_in_any_order(opened: Pair) -> None:
    refs = [opened.send(torch.full((4,), float(n))) for n in range(3)]
    for n in (2, 0, 1, 0):
        assert opened.receiver.receive(refs[n]).tolist() == [float(n)] * 4
    for ref in refs:
        opened.receiver.release(ref)


def test_a_payload_without_bytes_arrives(opened: Pair) -> None:
    ref = opened.send(torch.zeros(0, 5))
    assert opened.receiver.receive(ref).shape == (0, 5)
    assert opened.receiver.receive(opened.send(torch.ones(1))).tolist() == [1.0]


def test_dropped_references_are_taken_off_the_line_by_the_next_receive(opened: Pair) -> None:
    dropped = opened.send(torch.full((1000,), 1.0))
    opened.sender.reclaim(dropped.slot)
    kept = opened.send(torch.full((7,), 2.0))
    assert opened.receiver.receive(kept).tolist() == [2.0] * 7
    opened.receiver.release(kept)
    opened.sender.reclaim(kept.slot)
    assert opened.sender.free_slots == SPEC.slots


def test_a_slot_stays_out_of_use_until_its_dropped_send_is_done(opened: Pair) -> None:
    dropped = opened.send(torch.full((8,), 1.0))
    opened.sender.reclaim(dropped.slot)
    with pytest.raises(InternalError, match="already"):
        opened.sender.reclaim(dropped.slot)
    assert opened.sender.free_slots == SPEC.slots - 1
    second, third = opened.send(torch.full((8,), 2.0)), opened.send(torch.full((8,), 3.0))
    assert dropped.slot not in {second.slot, third.slot}
    assert opened.sender.acquire() is None
    assert opened.receiver.receive(third).tolist() == [3.0] * 8
    assert opened.receiver.receive(second).tolist() == [2.0] * 8
    assert opened.sender.acquire() == dropped.slot


def test_slots_that_nobody_comes_for_end_the_channel(fabric: FakeFabric, hurried: None) -> None:
    pair = Pair(fabric)
    pair.open()
    for n in range(SPEC.slots):
        pair.sender.reclaim(pair.send(torch.full((2,), float(n))).slot)
    assert pair.sender.acquire() is None
    time.sleep(0.3)
    slot = pair.sender.acquire()  # all are free again, in a channel that takes nothing any more
    assert slot is not None
    with pytest.raises(ChannelError, match="nobody has taken a payload"):
        pair.sender.write(slot, torch.zeros(1))
    pair.close()


@settings(deadline=None, max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["send", "drop", "read", "finish"]), max_size=25))
def test_any_order_of_steps_reads_what_was_sent(fabric: FakeFabric, steps: list[str]) -> None:
    pair = Pair(fabric, spec=replace(SPEC, slots=4))
    pair.open()
    underway: list[tuple[PayloadRef, int]] = []
    read: list[tuple[PayloadRef, int]] = []
    for number, step in enumerate(steps):
        if step == "send" and pair.sender.free_slots:
            underway.append((pair.send(torch.tensor([number] * (number + 1), dtype=torch.uint8)), number))
        elif step == "drop" and underway:
            pair.sender.reclaim(underway.pop(0)[0].slot)
        elif step == "read" and underway:
            read.append(underway.pop())
            assert pair.receiver.receive(read[-1][0]).tolist() == [read[-1][1]] * (read[-1][1] + 1)
        elif step == "finish" and read:
            ref, value = read.pop(0)
            assert pair.receiver.receive(ref).tolist() == [value] * (value + 1)
            pair.receiver.release(ref)
            pair.sender.reclaim(ref.slot)
    pair.close()


# Deadlines, death and close


def test_join_returns_at_once_and_a_peer_that_never_comes_is_an_error(fabric: FakeFabric, hurried: None) -> None:
    pair = Pair(fabric)
    pair.guest.join(pair.owner.offer())
    slot = pair.sender.acquire()
    assert slot is not None
    assert pair.sender._link.wait_gone(10)  # two deadlines on, it gave up by itself
    with pytest.raises(ChannelError, match="not ready in time"):
        pair.sender.publish(slot, torch.uint8, (1,))


def test_an_owner_whose_guest_never_came_is_told_so(fabric: FakeFabric, hurried: None) -> None:
    pair, absent = Pair(fabric), Pair(FakeFabric())
    pair.owner.offer()
    answer = absent.guest.join(absent.owner.offer())  # a right answer, of one who meets somebody else
    with pytest.raises(ChannelError, match=r"did not come within 0\.3 s|not ready in time"):
        pair.owner.seal(answer)
    assert pair.owner._link.wait_gone(10)
    absent.close()


def test_a_receive_that_nothing_is_sent_for_ends_the_channel(fabric: FakeFabric, hurried: None) -> None:
    pair = Pair(fabric)
    pair.open()
    ref = pair.send(torch.zeros(2))
    with pytest.raises(ChannelError, match="in time"):
        pair.receiver.receive(replace(ref, sequence=2))
    with pytest.raises(ChannelError, match="in time"):
        pair.receiver.receive(ref)  # for good
    with pytest.raises(ChannelError, match="in time"):
        pair.receiver.release(ref)
    assert pair.receiver._link.wait_gone(10)
    pair.close()


def test_a_sender_that_dies_is_noticed_by_the_deadline_alone(fabric: FakeFabric, hurried: None) -> None:
    pair = Pair(fabric)
    pair.open()
    ref = pair.send(torch.zeros(2))
    fabric.kill(DRAFTER_GPU)
    with pytest.raises(ChannelError, match="in time"):
        pair.receiver.receive(ref)
    assert pair.receiver._link.wait_gone(10)


def test_a_sender_that_is_gone_may_be_noticed_by_nccl() -> None:
    fabric = FakeFabric(notice_seconds=0.05)
    pair = Pair(fabric)
    pair.open()
    ref = pair.send(torch.zeros(2))
    pair.sender.close()
    with pytest.raises(ChannelError, match="NCCL reports a failure"):
        pair.receiver.receive(ref)
    pair.close()
    assert fabric.violations == []


def test_a_receiver_that_dies_leaves_the_sender_free_to_close(fabric: FakeFabric) -> None:
    pair = Pair(fabric)
    pair.open()
    pair.send(torch.zeros(2))
    fabric.kill(VERIFIER_GPU)
    pair.send(torch.zeros(2))
    pair.sender.close()
    assert pair.sender._link.wait_gone(10)


def test_close_does_not_wait_for_an_abort_that_hangs_and_holds_the_buffers(fabric: FakeFabric) -> None:
    pair = Pair(fabric)
    pair.open()
    fabric.abort_gate.clear()
    pair.sender.close()
    pair.sender.close()
    assert not pair.sender._link.wait_gone(0.05)
    assert pair.sender._link._held != []
    with pytest.raises(ChannelError, match="closed"):
        pair.sender.write(0, torch.zeros(1))
    fabric.abort_gate.set()
    assert pair.sender._link.wait_gone(10)
    assert pair.sender._link._held == []
    pair.close()


def test_a_close_by_another_thread_ends_a_receive(opened: Pair) -> None:
    ref = opened.send(torch.zeros(2))
    closer = threading.Timer(0.05, opened.receiver.close)
    closer.start()
    with pytest.raises(ChannelError, match="closed"):
        opened.receiver.receive(replace(ref, sequence=2))
    closer.join()


def test_an_end_that_was_closed_opens_no_more(fabric: FakeFabric) -> None:
    pair = Pair(fabric)
    offer = pair.owner.offer()
    pair.guest.close()
    with pytest.raises(ChannelError, match="closed"):
        pair.guest.join(offer)
    pair.close()


def test_a_close_during_the_handshake_aborts_what_it_brings(fabric: FakeFabric) -> None:
    pair = Pair(fabric)
    fabric.init_gate.clear()
    pair.guest.join(pair.owner.offer())
    pair.guest.close()
    assert not pair.guest._link.wait_gone(0.05)
    fabric.init_gate.set()
    assert pair.guest._link.wait_gone(10)
    assert fabric.alive == 0
    pair.close()


def test_a_transfer_that_an_abort_ended_is_no_payload(opened: Pair) -> None:
    link = opened.receiver._link
    target = link.stream.empty(8)
    mark = link.post(lambda communicator: communicator.recv(target, link.stream.handle), time.monotonic() + 5)
    opened.receiver.close()
    assert link.wait_gone(10)
    assert mark.done()
    with pytest.raises(ChannelError, match="closed"):
        link.wait(mark, time.monotonic() + 5)


# What must agree


def test_references_that_do_not_agree_are_refused(opened: Pair) -> None:
    ref = opened.send(torch.zeros(8))
    assert torch.equal(opened.receiver.receive(ref), torch.zeros(8))
    wrong = [
        replace(ref, generation=1),
        replace(ref, channel_id="c2"),
        replace(ref, slot=3),
        replace(ref, slot=(ref.slot + 1) % 3),
        replace(ref, nbytes=16, shape=(4,)),
        replace(ref, shape=(7,)),
        replace(ref, nbytes=8192, shape=(2048,)),
        replace(ref, sequence=0, nbytes=4096, dtype="uint8", shape=(4096,)),  # the warm-up is no payload
    ]
    for reference in wrong:
        with pytest.raises(ChannelError):
            opened.receiver.receive(reference)
    assert torch.equal(opened.receiver.receive(ref), torch.zeros(8))


def test_a_reference_of_another_size_does_not_upset_the_order(opened: Pair) -> None:
    ref = opened.send(torch.ones(8))
    with pytest.raises(ChannelError, match="does not hold"):
        opened.receiver.receive(replace(ref, nbytes=4, shape=(1,)))  # it was sent with 32 bytes, and so received
    assert opened.receiver.receive(opened.send(torch.full((3,), 2.0))).tolist() == [2.0] * 3


def test_a_payload_that_was_overwritten_is_told_at_release(opened: Pair) -> None:
    ref = opened.send(torch.zeros(8))
    opened.receiver.receive(ref)
    opened.sender.reclaim(ref.slot)
    later = opened.send(torch.ones(8))
    assert later.slot == ref.slot
    opened.receiver.receive(later)
    with pytest.raises(ChannelError, match="overwritten"):
        opened.receiver.release(ref)


@pytest.mark.parametrize(
    "header",
    [
        PayloadHeader(0, 9, 1, 8),
        PayloadHeader(0, 2, 5, 8),
        PayloadHeader(3, 2, 1, 8),
        PayloadHeader(0, 2, 1, 4097),
    ],
)
def test_a_header_that_does_not_belong_ends_the_channel(opened: Pair, header: PayloadHeader) -> None:
    ref = PayloadRef("c1", 2, 0, 1, 8, "uint8", (8,))
    link = opened.sender._link
    packed = header.pack()
    link.post(lambda communicator: communicator.send([packed], link.stream.handle), time.monotonic() + 5)
    with pytest.raises(ChannelError, match="the peer sent"):
        opened.receiver.receive(ref)
    with pytest.raises(ChannelError, match="the peer sent"):
        opened.receiver.receive(ref)


def test_one_gpu_is_refused_by_either_end(fabric: FakeFabric) -> None:
    owner, guest = make_receiver(fabric, VERIFIER_GPU), make_sender(fabric, VERIFIER_GPU)
    offer = owner.offer()
    with pytest.raises(ChannelError, match="one GPU"):
        guest.join(offer)
    elsewhere = make_sender(fabric, DRAFTER_GPU)
    answer = json.loads(elsewhere.join(offer))
    with pytest.raises(ChannelError, match="one GPU"):
        owner.seal(json.dumps({**answer, "gpu": VERIFIER_GPU}).encode())
    elsewhere.close()
    assert elsewhere._link.wait_gone(10)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 2),
        ("kind", "cuda_ipc"),
        ("channel_id", "c2"),
        ("generation", 1),
        ("slots", 4),
        ("slot_bytes", 8192),
        ("unique_id", "00" * 127),
        ("unique_id", "zz" * 128),
        ("unique_id", 7),
        ("gpu", None),
    ],
)
def test_a_wrong_offer_is_refused(fabric: FakeFabric, name: str, value: object) -> None:
    pair = Pair(fabric)
    offer = json.loads(pair.owner.offer())
    with pytest.raises(ChannelError):
        pair.guest.join(json.dumps({**offer, name: value}).encode())
    del offer[name]
    with pytest.raises(ChannelError):
        pair.guest.join(json.dumps(offer).encode())
    with pytest.raises(ChannelError):
        pair.owner.seal(b"{}")


def test_a_seal_needs_an_offer_and_a_handshake_happens_once(fabric: FakeFabric) -> None:
    pair = Pair(fabric)
    offer = pair.owner.offer()
    answer = pair.guest.join(offer)
    pair.owner.seal(answer)
    with pytest.raises(ChannelError, match="made already"):
        pair.guest.join(offer)
    with pytest.raises(ChannelError, match="nothing was offered"):
        make_receiver(fabric, VERIFIER_GPU).seal(answer)
    pair.close()


def test_ends_that_are_not_open_refuse_work(fabric: FakeFabric) -> None:
    pair = Pair(fabric)
    slot = pair.sender.acquire()
    assert slot is not None
    with pytest.raises(ChannelError, match="not open"):
        pair.sender.write(slot, torch.zeros(1))
    pair.sender.reclaim(slot)


# The fake itself: what it is there to catch


def two_ranks(fabric: FakeFabric) -> tuple[FakeCore, FakeCore, list[FakeStream]]:
    cores = FakeCore(fabric, DRAFTER_GPU), FakeCore(fabric, VERIFIER_GPU)
    return *cores, [FakeStream(fabric, DRAFTER_GPU), FakeStream(fabric, VERIFIER_GPU)]


def test_the_fake_catches_counts_that_do_not_match_and_order_that_is_broken() -> None:
    fabric = FakeFabric()
    one, two, streams = two_ranks(fabric)
    name = one.get_unique_id()
    config = NCCLConfig(blocking=False, max_ctas=1)
    first, second = one.Communicator.init(2, 0, name, config), two.Communicator.init(2, 1, name, config)
    piece, larger = torch.zeros(8, dtype=torch.uint8), torch.zeros(9, dtype=torch.uint8)
    first.send(piece, 1, stream=streams[0].handle)  # init is not done
    assert "R4" in fabric.violations[0]

    fabric = FakeFabric()
    one, two, streams = two_ranks(fabric)
    name = one.get_unique_id()
    first, second = one.Communicator.init(2, 0, name, config), two.Communicator.init(2, 1, name, config)
    ready(first, second)
    first.send(piece, 1, stream=streams[0].handle)
    streams[0].mark()
    assert fabric.violations == ["R5: an event was recorded while NCCL was enqueueing"]
    second.recv(larger, 0, stream=streams[1].handle)
    ready(first, second)
    mark = streams[1].mark()
    assert not mark.done()
    assert "R1" in fabric.violations[-1]
    assert not mark.done()  # it hangs until abort
    second.abort()
    assert mark.done()
    with pytest.raises(NcclInvalid):
        second.get_async_error()
    assert "R6" in fabric.violations[-1]


def test_the_fake_catches_buffers_that_change_and_one_gpu_twice() -> None:
    fabric = FakeFabric()
    one, two, streams = two_ranks(fabric)
    config = NCCLConfig(blocking=False, max_ctas=1)
    name = one.get_unique_id()
    first, second = one.Communicator.init(2, 0, name, config), two.Communicator.init(2, 1, name, config)
    ready(first, second)
    piece, target = torch.zeros(8, dtype=torch.uint8), torch.zeros(8, dtype=torch.uint8)
    first.send(piece, 1, stream=streams[0].handle)
    second.recv(target, 0, stream=streams[1].handle)
    ready(first, second)
    piece.add_(1)
    assert streams[1].mark().done()
    assert "R3" in fabric.violations[-1]
    with pytest.raises(ValueError, match="3 bytes"):
        UniqueId.from_bytes(b"abc")
    one.Communicator.init(2, 1, one.get_unique_id(), config)
    two.Communicator.init(2, 1, name, config)
    assert "R7" in fabric.violations[-1]
    again = one.get_unique_id()
    one.Communicator.init(2, 0, again, config)
    one.Communicator.init(2, 1, again, config)
    assert "R8" in fabric.violations[-1]


def ready(*communicators: object) -> None:
    """Query until success, as R4 asks."""
    pending = list(communicators)
    while pending:
        pending = [one for one in pending if one.get_async_error() != 0]  # type: ignore[attr-defined]


# nccl4py and torch, where there are none


def test_nccl4py_is_not_imported_before_it_is_needed() -> None:
    code = "import minedraft.channel.cuda_ipc, minedraft.channel.nccl, sys; sys.exit('nccl' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def test_a_machine_without_nccl4py_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nccl", None)
    with pytest.raises(ChannelError, match=r"pip install 'minedraft\[gpu\]'"):
        NcclSender(SPEC, DEVICE)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_torch_without_a_gpu_is_a_channel_error() -> None:
    with pytest.raises(ChannelError, match="no stream on"):
        CudaSideStream(DEVICE)
