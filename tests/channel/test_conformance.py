"""What every channel does, whatever its kind: the contract of `minedraft.channel.base`, over each pair of PAIRS."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from minedraft.channel import gloo, inline, nccl
from minedraft.channel.base import DTYPES, ReceiverEnd, SenderEnd
from minedraft.errors import ChannelError, InternalError
from minedraft.types import ChannelKind, ChannelSpec, PayloadRef
from tests.channel.pairs import PAIRS, Ends

SLOTS = 3
SLOT_BYTES = 5000  # no multiple of a page
WAIT = 0.3  # for a payload that never comes


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (gloo, inline, nccl):
        monkeypatch.setattr(module, "RECEIVE_SECONDS", WAIT)


@pytest.fixture(params=list(PAIRS), ids=[kind.value for kind in PAIRS])
def kind(request: pytest.FixtureRequest) -> ChannelKind:
    found: ChannelKind = request.param
    return found


def spec_of(kind: ChannelKind) -> ChannelSpec:
    return ChannelSpec("channel", 5, kind, SLOTS, SLOT_BYTES)


@pytest.fixture(params=[False, True], ids=["receiver-owns", "sender-owns"])
def ends(kind: ChannelKind, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    with PAIRS[kind](spec_of(kind), request.param, tmp_path) as pair:
        yield pair


def noise(seed: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Random bytes as that type, so that NaNs and denormals are among them."""
    count = torch.Size(shape).numel() * dtype.itemsize
    flat = torch.randint(0, 256, (count,), dtype=torch.uint8, generator=torch.manual_seed(seed))
    return flat.view(dtype).view(shape)


def same_bytes(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and one.dtype == two.dtype and raw(one) == raw(two)


def raw(tensor: Tensor) -> bytes:
    return tensor.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def put(sender: SenderEnd, tensor: Tensor) -> PayloadRef:
    slot = sender.acquire()
    assert slot is not None
    sender.write(slot, tensor)
    return sender.publish(slot, tensor.dtype, tuple(tensor.shape))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=str)
@pytest.mark.parametrize("shape", [(1,), (7, 11), (2, 3, 5), (0,), (3, 0)])
def test_payloads_arrive_as_they_were(ends: Ends, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    sender, receiver = ends
    sent = noise(1, shape, dtype)
    ref = put(sender, sent)
    assert ref.nbytes == sent.nbytes
    got = receiver.receive(ref)
    assert same_bytes(got, sent)
    receiver.release(ref)


def test_a_slot_may_be_filled_to_the_last_byte_and_no_further(ends: Ends) -> None:
    sender, receiver = ends
    whole = noise(2, (SLOT_BYTES,), torch.uint8)
    assert same_bytes(receiver.receive(put(sender, whole)), whole)
    slot = sender.acquire()
    assert slot is not None
    with pytest.raises(ChannelError, match="fit"):
        sender.write(slot, noise(3, (SLOT_BYTES + 1,), torch.uint8))
    with pytest.raises(ChannelError, match="fit"):
        sender.write(slot, noise(3, (2,), torch.uint8), offset=SLOT_BYTES - 1)
    with pytest.raises(ChannelError, match="fit"):
        sender.publish(slot, torch.float32, (SLOT_BYTES,))


def test_a_payload_may_be_written_in_pieces_and_from_views(ends: Ends) -> None:
    sender, receiver = ends
    rows = noise(4, (4, 30), torch.float16)
    slot = sender.acquire()
    assert slot is not None
    for place, row in enumerate(rows):
        sender.write(slot, row, offset=place * row.nbytes)
    assert same_bytes(receiver.receive(sender.publish(slot, torch.float16, (4, 30))), rows)
    turned = noise(5, (6, 8), torch.float32).T
    assert same_bytes(receiver.receive(put(sender, turned)), turned)


def test_slots_run_out_and_come_back(ends: Ends) -> None:
    sender, receiver = ends
    refs = [put(sender, noise(seed, (9,), torch.float32)) for seed in range(SLOTS)]
    assert sender.acquire() is None
    assert sender.free_slots == 0
    receiver.receive(refs[1])
    receiver.release(refs[1])
    sender.reclaim(refs[1].slot)
    again = put(sender, noise(9, (9,), torch.float32))
    assert again.slot == refs[1].slot
    assert again.sequence == SLOTS + 1
    assert same_bytes(receiver.receive(again), noise(9, (9,), torch.float32))


def test_references_may_come_in_any_order_and_not_at_all(ends: Ends) -> None:
    """Two lanes, cancelled requests, lost steps."""
    sender, receiver = ends
    for seed in range(12):
        refs = [put(sender, noise(seed * 10 + n, (50,), torch.float16)) for n in range(SLOTS)]
        for place in reversed(range(seed % (SLOTS + 1))):
            assert same_bytes(receiver.receive(refs[place]), noise(seed * 10 + place, (50,), torch.float16))
            receiver.release(refs[place])
        for ref in refs:
            sender.reclaim(ref.slot)
            drain(receiver, seed, ref)


def drain(receiver: ReceiverEnd, seed: int, ref: PayloadRef) -> None:
    """A slot is reclaimed when its reference is dropped; a later receive may be what lets its bytes go. NCCL's slots
    stay in use until then, so each round's last reference must arrive."""
    if seed % 3 == 0 or (spec_kind(receiver) is ChannelKind.NCCL and ref.sequence % SLOTS == 0):
        receiver.receive(ref)


@pytest.mark.parametrize(
    "wrong",
    [
        {"generation": 4},
        {"generation": 6},
        {"channel_id": "another"},
        {"slot": SLOTS},
        {"slot": -1},
        {"nbytes": SLOT_BYTES + 1},
        {"nbytes": 39},
        {"dtype": "float32"},
        {"dtype": "int4"},
        {"shape": (9,)},
        {"sequence": 2},
        {"sequence": 0},
    ],
    ids=str,
)
def test_a_reference_that_is_wrong_is_refused_and_harms_nothing(ends: Ends, wrong: dict[str, object]) -> None:
    sender, receiver = ends
    sent = noise(6, (10,), torch.float32)
    ref = replace(put(sender, sent), dtype="float32")
    if wrong == {"dtype": "float32"}:
        wrong = {"dtype": "float16"}
    with pytest.raises(ChannelError):
        receiver.receive(replace(ref, **wrong))  # type: ignore[arg-type]
    if "sequence" not in wrong:  # a payload that never comes may end a channel for good
        assert same_bytes(receiver.receive(ref), sent)


def test_a_payload_that_was_overwritten_is_noticed(ends: Ends) -> None:
    sender, receiver = ends
    ref = put(sender, noise(7, (10,), torch.float32))
    receiver.receive(ref)
    sender.reclaim(ref.slot)
    newer = put(sender, noise(8, (10,), torch.float32))
    assert newer.slot == ref.slot
    receiver.receive(newer)
    if spec_kind(receiver) is not ChannelKind.INLINE:  # whose payloads have memory of their own
        with pytest.raises(ChannelError):
            receiver.release(ref)
    with pytest.raises(ChannelError):
        receiver.receive(ref)


def spec_kind(end: ReceiverEnd) -> ChannelKind:
    return end.spec.kind


def test_only_what_was_acquired_can_be_published_or_reclaimed(ends: Ends) -> None:
    sender, _ = ends
    with pytest.raises(InternalError):
        sender.publish(0, torch.uint8, (1,))
    with pytest.raises(InternalError):
        sender.reclaim(0)
    with pytest.raises(InternalError):
        sender.reclaim(SLOTS)


def test_a_closed_end_says_so(ends: Ends) -> None:
    sender, receiver = ends
    ref = put(sender, noise(9, (10,), torch.float32))
    receiver.receive(ref)
    for _ in range(2):
        receiver.close()
    with pytest.raises(ChannelError):
        receiver.receive(ref)
    for _ in range(2):
        sender.close()
    slot = sender.acquire()
    assert slot is not None
    with pytest.raises(ChannelError):
        sender.write(slot, noise(9, (10,), torch.float32))
    with pytest.raises(ChannelError):
        sender.publish(slot, torch.uint8, (1,))


def test_a_tensor_outlives_its_channel(ends: Ends) -> None:
    sender, receiver = ends
    sent = noise(10, (500,), torch.float32)
    view = receiver.receive(put(sender, sent))
    sender.close()
    receiver.close()
    assert same_bytes(view, sent)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.sampled_from(["send", "read", "drop"]), st.integers(0, 2**16)), max_size=40), st.booleans()
)
def test_any_order_of_sending_reading_and_dropping(
    kind: ChannelKind, moves: list[tuple[str, int]], owner_sends: bool
) -> None:
    """Against a model: what is under way, by slot."""
    with (
        tempfile.TemporaryDirectory() as folder,
        PAIRS[kind](spec_of(kind), owner_sends, Path(folder)) as (sender, receiver),
    ):
        under_way: list[tuple[PayloadRef, Tensor]] = []
        for move, number in moves:
            if move == "send":
                tensor = noise(number, (number % 1200,), torch.float32)
                if len(under_way) == SLOTS:
                    assert sender.acquire() is None
                else:
                    under_way.append((put(sender, tensor), tensor))
            elif under_way:
                ref, tensor = under_way.pop(number % len(under_way))
                assert same_bytes(receiver.receive(ref), tensor)
                if move == "read":
                    receiver.release(ref)
                sender.reclaim(ref.slot)
