"""The cuda_ipc channel over the fake libcuda: handshakes, memory, overruns, and real processes that are killed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from ctypes import CDLL, byref, c_uint64
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from minedraft.channel.cuda_driver import CudaDriver
from minedraft.channel.cuda_ipc import CudaIpcReceiver, CudaIpcSender
from minedraft.channel.device_memory import CudaMemory, DeviceSpan, _CudaArray
from minedraft.channel.device_ring import GRANULE, ring_bytes
from minedraft.errors import ChannelError
from minedraft.types import ChannelKind, ChannelSpec, PayloadRef
from tests.channel.fake_cuda.machine import GPU, NOTHING, OTHER_GPU, FakeDriver, FakeMachine, HostMemory
from tests.channel.fake_cuda.peer import PeerProcess
from tests.channel.patience import eventually

SPEC = ChannelSpec("c1", 3, ChannelKind.CUDA_IPC, slots=3, slot_bytes=5000)
DEVICE = torch.device("cuda", 0)


@pytest.fixture
def machine() -> Iterator[FakeMachine]:
    """A host whose processes broke none of the driver's rules."""
    machine = FakeMachine.start()
    try:
        yield machine
        assert machine.violations == []
    finally:
        machine.stop()


class Pair:
    """Both ends in this process, which the fake takes for two processes."""

    def __init__(self, machine: FakeMachine, owner_sends: bool = False) -> None:
        self.owners = machine.driver(1)
        self.guests = machine.driver(2)
        ours, theirs = (self.owners, self.guests) if owner_sends else (self.guests, self.owners)
        self.sender = CudaIpcSender(SPEC, DEVICE, ours, HostMemory())
        self.receiver = CudaIpcReceiver(SPEC, DEVICE, theirs, HostMemory())
        self.owner: CudaIpcSender | CudaIpcReceiver = self.sender if owner_sends else self.receiver
        self.guest: CudaIpcSender | CudaIpcReceiver = self.receiver if owner_sends else self.sender

    def open(self) -> None:
        self.owner.seal(self.guest.join(self.owner.offer()))

    def send(self, tensor: Tensor) -> PayloadRef:
        slot = self.sender.acquire()
        assert slot is not None
        self.sender.write(slot, tensor)
        return self.sender.publish(slot, tensor.dtype, tuple(tensor.shape))


@pytest.fixture
def opened(machine: FakeMachine) -> Pair:
    pair = Pair(machine)
    pair.open()
    return pair


def holds_nothing(driver: FakeDriver) -> bool:
    return driver.held() == NOTHING


@pytest.mark.parametrize("owner_sends", [False, True])
def test_payloads_arrive_in_the_ring_and_all_is_given_back(machine: FakeMachine, owner_sends: bool) -> None:
    pair = Pair(machine, owner_sends)
    pair.open()
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.uint8):
        tensor = torch.arange(2 * 3 * 5).to(dtype).view(2, 3, 5)
        ref = pair.send(tensor)
        received = pair.receiver.receive(ref)
        assert received.dtype == dtype
        assert torch.equal(received, tensor)
        pair.receiver.release(ref)
        pair.sender.reclaim(ref.slot)
        del received
    assert (pair.owners.held().allocated, pair.guests.held().opened) == (1, 1)
    pair.guest.close()
    pair.owner.close()
    assert holds_nothing(pair.guests)
    assert holds_nothing(pair.owners)
    assert machine.allocations == []


def test_a_payload_is_read_in_place(opened: Pair) -> None:
    ref = opened.send(torch.ones(4))
    first, second = opened.receiver.receive(ref), opened.receiver.receive(ref)
    assert first.data_ptr() == second.data_ptr()
    slot = opened.sender.acquire()
    assert slot is not None
    assert opened.send(torch.ones(4)).slot != slot


def test_pieces_of_a_payload_may_be_written_apart(opened: Pair) -> None:
    slot = opened.sender.acquire()
    assert slot is not None
    opened.sender.write(slot, torch.tensor([3.0]), offset=4)
    opened.sender.write(slot, torch.tensor([[7.0]], dtype=torch.float32).t(), offset=0)
    ref = opened.sender.publish(slot, torch.float32, (2,))
    assert opened.receiver.receive(ref).tolist() == [7.0, 3.0]


def test_an_owner_frees_only_when_the_guest_has_closed(machine: FakeMachine, opened: Pair) -> None:
    opened.owner.close()
    opened.owner.close()
    assert machine.allocations != []  # and no violation, which a free now would be
    with pytest.raises(ChannelError, match="closed"):
        opened.receiver.receive(PayloadRef("c1", 3, 0, 1, 4, "float32", (1,)))
    opened.guest.close()
    assert eventually(lambda: machine.allocations == [])
    assert eventually(lambda: holds_nothing(opened.owners))
    assert holds_nothing(opened.guests)


def test_a_payload_in_use_outlives_the_close_of_both_ends(machine: FakeMachine, opened: Pair) -> None:
    received = opened.receiver.receive(opened.send(torch.arange(100.0)))
    opened.sender.close()
    opened.receiver.close()
    assert torch.equal(received, torch.arange(100.0))  # unmapped memory would be a segmentation fault
    assert opened.owners.held().allocated == 1
    del received
    assert eventually(lambda: holds_nothing(opened.owners))
    assert machine.allocations == []


def test_a_close_by_another_thread_waits_for_nobody_and_hurts_no_write(opened: Pair) -> None:
    slot = opened.sender.acquire()
    assert slot is not None
    failures: list[str] = []
    begun = threading.Event()

    def work() -> None:
        try:
            while True:
                opened.sender.write(slot, torch.ones(1000))
                begun.set()
        except ChannelError as error:
            failures.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(10)
    opened.sender.close()
    thread.join(10)
    assert len(failures) == 1
    assert holds_nothing(opened.guests)


@pytest.mark.parametrize("published", [False, True])
def test_an_overrun_is_seen_at_release(opened: Pair, published: bool) -> None:
    ref = opened.send(torch.zeros(8))
    opened.receiver.receive(ref)
    opened.sender.reclaim(ref.slot)
    slot = opened.sender.acquire()
    assert slot == ref.slot
    opened.sender.write(slot, torch.ones(8))
    if published:
        opened.sender.publish(slot, torch.float32, (8,))
    with pytest.raises(ChannelError, match="overwritten"):
        opened.receiver.release(ref)
    with pytest.raises(ChannelError, match="does not hold"):
        opened.receiver.receive(ref)


def test_references_that_do_not_agree_are_refused(opened: Pair) -> None:
    ref = opened.send(torch.zeros(8))
    wrong = [
        replace(ref, generation=2),
        replace(ref, channel_id="c2"),
        replace(ref, slot=3),
        replace(ref, slot=(ref.slot + 1) % 3),
        replace(ref, sequence=2),
        replace(ref, nbytes=16, shape=(4,)),
        replace(ref, shape=(7,)),
        replace(ref, dtype="float64", shape=(4,)),
        replace(ref, nbytes=6000, shape=(1500,)),
    ]
    for reference in wrong:
        with pytest.raises(ChannelError):
            opened.receiver.receive(reference)
    assert torch.equal(opened.receiver.receive(ref), torch.zeros(8))


def test_a_damaged_header_is_seen(opened: Pair) -> None:
    ref = opened.send(torch.zeros(8))
    opened.sender._link.ring.headers[ref.slot, 9] ^= 1
    with pytest.raises(ChannelError, match="damaged"):
        opened.receiver.receive(ref)


def test_what_does_not_fit_is_refused(opened: Pair) -> None:
    slot = opened.sender.acquire()
    assert slot is not None
    with pytest.raises(ChannelError, match="do not fit"):
        opened.sender.write(slot, torch.zeros(5001, dtype=torch.uint8))
    with pytest.raises(ChannelError, match="do not fit"):
        opened.sender.write(slot, torch.zeros(8, dtype=torch.uint8), offset=4996)
    with pytest.raises(ChannelError, match="do not fit"):
        opened.sender.publish(slot, torch.float32, (1251,))


def test_ends_that_are_not_open_refuse_work(machine: FakeMachine) -> None:
    pair = Pair(machine)
    slot = pair.sender.acquire()
    assert slot is not None
    with pytest.raises(ChannelError, match="not open"):
        pair.sender.write(slot, torch.zeros(1))
    pair.sender.close()  # which is nothing to be done twice
    pair.sender.close()
    with pytest.raises(ChannelError, match="not open"):
        pair.receiver.receive(PayloadRef("c1", 3, 0, 1, 4, "float32", (1,)))


def test_one_process_is_told_so(machine: FakeMachine) -> None:
    driver = machine.driver(1)
    owner = CudaIpcReceiver(SPEC, DEVICE, driver, HostMemory())
    guest = CudaIpcSender(SPEC, DEVICE, driver, HostMemory())
    offer = owner.offer()
    with pytest.raises(ChannelError, match="both ends are in this one"):
        guest.join(offer)
    owner.close()
    assert holds_nothing(driver)


def test_a_gpu_that_the_guest_does_not_see_is_named(machine: FakeMachine) -> None:
    owner = CudaIpcReceiver(SPEC, DEVICE, machine.driver(1), HostMemory())
    guest = CudaIpcSender(SPEC, DEVICE, machine.driver(2, [OTHER_GPU]), HostMemory())
    offer = owner.offer()
    with pytest.raises(ChannelError, match=f"GPU {GPU} is not visible"):
        guest.join(offer)
    owner.close()
    assert machine.allocations == []


def test_a_gpu_is_found_by_its_uuid_under_another_number(machine: FakeMachine) -> None:
    owners, guests = machine.driver(1), machine.driver(2, [OTHER_GPU, GPU])
    owner = CudaIpcReceiver(SPEC, DEVICE, owners, HostMemory())
    guest = CudaIpcSender(SPEC, DEVICE, guests, HostMemory())
    owner.seal(guest.join(owner.offer()))
    assert guest._link.ring.ordinal == 1
    guest.close()
    owner.close()
    assert holds_nothing(guests)
    assert holds_nothing(owners)


def test_no_memory_is_said_with_the_numbers(machine: FakeMachine) -> None:
    driver = machine.driver(1, memory=1 << 20)
    owner = CudaIpcReceiver(SPEC, DEVICE, driver, HostMemory())
    with pytest.raises(ChannelError, match=r"no 2 MiB on cuda:0 for 3 slots.*OUT_OF_MEMORY"):
        owner.offer()
    assert holds_nothing(driver)


def test_an_offer_of_a_ring_that_is_gone_opens_nothing(machine: FakeMachine) -> None:
    pair = Pair(machine)
    offer = pair.owner.offer()
    pair.owner.close()
    with pytest.raises(ChannelError):
        pair.guest.join(offer)
    assert holds_nothing(pair.guests)


def test_a_guest_that_read_something_else_is_not_sealed(machine: FakeMachine) -> None:
    pair = Pair(machine)
    answer = json.loads(pair.guest.join(pair.owner.offer()))
    with pytest.raises(ChannelError, match="something else"):
        pair.owner.seal(json.dumps({**answer, "nonce": "00" * 64}).encode())
    with pytest.raises(ChannelError, match="something else"):
        pair.guest.seal(json.dumps(answer).encode())  # which offered nothing
    pair.guest.close()
    pair.owner.close()


BAD_FIELDS: list[tuple[str, object]] = [
    ("version", 2),
    ("kind", "nccl"),
    ("channel_id", "c2"),
    ("generation", 4),
    ("slots", 4),
    ("slot_bytes", 4096),
    ("handle", "00" * 64),
    ("handle", "00" * 63),
    ("handle", "zz" * 64),
    ("handle", 5),
    ("nbytes", 4096),
    ("nbytes", True),
    ("gpu", "no uuid"),
    ("process", None),
    ("lease_pid", -1),
    ("lease_fd", 0),
    ("lease_name", "minedraft-ring-other"),
]


@pytest.mark.parametrize(("name", "value"), BAD_FIELDS)
def test_a_wrong_offer_is_refused_and_leaves_nothing(machine: FakeMachine, name: str, value: object) -> None:
    pair = Pair(machine)
    offer = json.loads(pair.owner.offer())
    with pytest.raises(ChannelError):
        pair.guest.join(json.dumps({**offer, name: value}).encode())
    del offer[name]
    with pytest.raises(ChannelError):
        pair.guest.join(json.dumps(offer).encode())
    assert holds_nothing(pair.guests)
    pair.owner.close()
    assert holds_nothing(pair.owners)


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=80)
    | st.recursive(st.integers() | st.text(), st.lists).map(lambda v: json.dumps(v).encode())
)
def test_no_bytes_are_more_than_a_channel_error(machine: FakeMachine, data: bytes) -> None:
    guest = CudaIpcSender(SPEC, DEVICE, driver_of(machine), HostMemory())
    for take in (guest.join, guest.seal):
        with pytest.raises(ChannelError):
            take(data)


def driver_of(machine: FakeMachine) -> CudaDriver:
    """A driver of process 9, made once for the machine."""
    known = machine.folder / "libcuda-9.so"
    return CudaDriver(str(known)) if known.exists() else machine.driver(9)


@pytest.mark.parametrize("data", [b"[" * 100_000, b"{}" * 3000, b"\xff", b"null"])
def test_hostile_bytes_are_a_channel_error(machine: FakeMachine, data: bytes) -> None:
    with pytest.raises(ChannelError):
        CudaIpcSender(SPEC, DEVICE, machine.driver(1), HostMemory()).join(data)


def test_a_ring_has_whole_granules() -> None:
    assert ring_bytes(SPEC) == GRANULE
    large = replace(SPEC, slots=16, slot_bytes=12 << 20)
    assert ring_bytes(large) == (16 * 12 + 2) << 20


# Real processes


def test_a_sender_in_another_process_is_killed(machine: FakeMachine) -> None:
    driver = machine.driver(1)
    receiver = CudaIpcReceiver(SPEC, DEVICE, driver, HostMemory())
    peer = PeerProcess(machine, SPEC, sends=True)
    receiver.seal(peer.ask("join", receiver.offer()))
    ref = peer.ask("send", [1.0, 2.0, 3.0])
    received = receiver.receive(ref)
    peer.kill()
    assert received.tolist() == [1.0, 2.0, 3.0]  # the memory is the owner's
    receiver.release(ref)
    del received
    receiver.close()
    assert eventually(lambda: holds_nothing(driver))
    assert machine.allocations == []


def test_an_owner_in_another_process_is_killed_and_a_new_generation_follows(machine: FakeMachine) -> None:
    driver = machine.driver(1)
    receiver = CudaIpcReceiver(SPEC, DEVICE, driver, HostMemory())
    peer = PeerProcess(machine, SPEC, sends=True)
    offer = peer.ask("offer")
    peer.ask("seal", receiver.join(offer))
    ref = peer.ask("send", [4.0])
    received = receiver.receive(ref)
    peer.kill()
    assert received.tolist() == [4.0]  # what is mapped stays mapped
    del received
    receiver.close()
    assert holds_nothing(driver)
    with pytest.raises(ChannelError):
        CudaIpcReceiver(SPEC, DEVICE, driver, HostMemory()).join(offer)

    later = replace(SPEC, generation=4)
    reader = PeerProcess(machine, later, sends=False)
    sender = CudaIpcSender(later, DEVICE, driver, HostMemory())
    reader_answer = reader.ask("join", sender.offer())
    sender.seal(reader_answer)
    slot = sender.acquire()
    assert slot is not None
    sender.write(slot, torch.tensor([5.0, 6.0]))
    assert reader.ask("receive", sender.publish(slot, torch.float32, (2,))) == [5.0, 6.0]
    sender.close()
    assert driver.held().allocated == 1  # the reader has it open
    reader.ask("close")
    assert reader.ask("held") == (0, 0, 0)
    assert eventually(lambda: holds_nothing(driver))
    reader.kill()


# The fake itself: what it is there to catch


def caught(machine: FakeMachine) -> str:
    """The violation that was noted, which is then forgotten."""
    (line,) = machine.violations
    (machine.folder / "violations").unlink()
    return line


def test_the_driver_needs_to_be_initialised_and_a_context(machine: FakeMachine) -> None:
    driver = machine.driver(1)
    with pytest.raises(ChannelError, match=r"cuMemAlloc_v2 failed with CUDA_ERROR_INVALID_CONTEXT \(201\)"):
        driver.allocate(1)
    with driver.context(0), pytest.raises(ChannelError, match=r"CUDA_ERROR_INVALID_VALUE \(1\)"):
        driver.allocate(0)
    with pytest.raises(ChannelError, match="INVALID_DEVICE"):
        driver.retain(1)
    raw = CDLL(str(machine.folder / "libcuda.so"))
    assert raw.cuMemAlloc_v2(byref(c_uint64()), c_uint64(1)) == 3


def test_the_fake_catches_memory_that_is_misused(machine: FakeMachine) -> None:
    owners, guests = machine.driver(1), machine.driver(2)
    owners.retain(0)
    guests.retain(0)
    with owners.context(0):
        address = owners.allocate(4096)
        with pytest.raises(ChannelError):
            owners.export(address + 64)
        assert "no allocation's base" in caught(machine)
        handle = owners.export(address)
        with pytest.raises(ChannelError, match="201"):
            owners.open(handle)
        with pytest.raises(ChannelError):
            owners.close(address)
        assert "did not return" in caught(machine)
    with guests.context(0):
        mapped = guests.open(handle)
        assert guests.open(handle) == mapped
        with pytest.raises(ChannelError):
            guests.free(mapped)
        assert "cuMemAlloc did not return" in caught(machine)
        guests.close(mapped)
        with owners.context(0):
            owners.free(address)
        assert "an importer has open" in caught(machine)
        guests.close(mapped)
        with pytest.raises(ChannelError):
            guests.close(mapped)
        assert "too often" in caught(machine)
        with pytest.raises(ChannelError, match="INVALID_HANDLE"):
            guests.open(handle)
    guests.release(0)
    with owners.context(0):
        owners.allocate(4096)
    owners.release(0)
    assert "still held memory" in caught(machine)
    with pytest.raises(ChannelError):
        owners.release(0)
    assert "not retained" in caught(machine)


def test_the_fake_refuses_other_flags(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(machine)
    offer = pair.owner.offer()
    monkeypatch.setattr("minedraft.channel.cuda_driver.LAZY_ENABLE_PEER_ACCESS", 0)
    with pytest.raises(ChannelError, match="INVALID_VALUE"):
        pair.guest.join(offer)
    assert holds_nothing(pair.guests)
    pair.owner.close()


# The binding, and torch, where there is no GPU


def test_a_machine_without_a_driver_is_told_so() -> None:
    with pytest.raises(ChannelError, match="NVIDIA driver"):
        CudaDriver("libcuda-that-is-not-there.so")


def test_the_binding_says_what_the_driver_is(machine: FakeMachine) -> None:
    driver = machine.driver(1, [OTHER_GPU, GPU])
    assert driver.version == "13.0"
    assert driver.device_count == 2
    assert driver.device_uuid(1) == GPU
    assert driver.ordinal_of(OTHER_GPU) == 0


def test_what_torch_is_given_holds_the_memory() -> None:
    given_back: list[bool] = []
    array = _CudaArray(DeviceSpan(512, 4096, lambda: given_back.append(True)))
    found = array.__cuda_array_interface__
    assert (found["shape"], found["typestr"], found["data"]) == ((4096,), "|u1", (512, False))
    assert given_back == []
    del array
    assert given_back == [True]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_torch_without_a_gpu_is_a_channel_error() -> None:
    given_back: list[bool] = []
    with pytest.raises(ChannelError, match="torch cannot use 4096 bytes"):
        CudaMemory().wrap(DeviceSpan(0, 4096, lambda: given_back.append(True)), 0)
    assert eventually(lambda: given_back == [True])
