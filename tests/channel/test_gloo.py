"""gloo with a peer that never comes, that lies, or that is killed: an error within the deadline, and nothing worse."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch

from minedraft.channel import gloo, gloo_pair
from minedraft.channel.gloo import GlooReceiver, GlooSender
from minedraft.errors import ChannelError
from minedraft.types import ChannelKind, ChannelSpec, PayloadRef
from tests.channel.other_process import Guest
from tests.channel.pairs import gloo as pair

SPEC = ChannelSpec("channel", 1, ChannelKind.GLOO, slots=2, slot_bytes=1 << 20)


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gloo_pair, "HANDSHAKE_SECONDS", 0.5)
    monkeypatch.setattr(gloo, "RECEIVE_SECONDS", 0.5)


def threads() -> int:
    return sum("gloo" in thread.name for thread in threading.enumerate())


def eventually(count: int) -> bool:
    deadline = time.monotonic() + 15
    while threads() > count and time.monotonic() < deadline:
        time.sleep(0.02)
    return threads() <= count


def test_two_processes_and_a_kill(tmp_path: Path) -> None:
    receiver = GlooReceiver(SPEC, "127.0.0.1")
    with Guest(SPEC, tmp_path) as guest:
        receiver.seal(guest.join(receiver.offer()))
        ref = guest.send(1 << 20, 7)
        assert bool((receiver.receive(ref) == 7).all())
        receiver.release(ref)
        guest.kill()
        with pytest.raises(ChannelError, match="gloo"):
            receiver.receive(PayloadRef("channel", 1, 1, 2, 1, "uint8", (1,)))
    receiver.close()
    assert eventually(0), "the killed peer's threads end"


def test_a_sender_whose_peer_was_killed_says_so(tmp_path: Path) -> None:
    sender = GlooSender(SPEC, "127.0.0.1")
    with Guest(SPEC, tmp_path) as guest:
        sender.seal(guest.join(sender.offer()))
        guest.kill()
    slot = sender.acquire()
    assert slot is not None
    deadline = time.monotonic() + 20
    problem = ""
    while not problem and time.monotonic() < deadline:
        try:
            sender.write(slot, torch.zeros(1000))
            sender._publish(PayloadRef("channel", 1, slot, 1, 4000, "float32", (1000,)))
            time.sleep(0.01)
        except ChannelError as error:
            problem = str(error)
    assert "gloo" in problem
    sender.close()
    assert eventually(0)


@pytest.mark.usefixtures("hurried")
def test_a_guest_that_never_answers() -> None:
    receiver = GlooReceiver(SPEC, "127.0.0.1")
    receiver.offer()
    with pytest.raises(ChannelError, match="gloo"):
        receiver.seal(b"no address of any process")
    receiver.close()
    alone = GlooSender(SPEC, "127.0.0.1")
    with pytest.raises(ChannelError, match="gloo"):
        alone.seal(bytes(len(alone.offer())))
    alone.close()
    silent = GlooReceiver(SPEC, "127.0.0.1")
    silent.offer()
    silent.close()
    assert eventually(0)


def test_a_host_that_is_not_here() -> None:
    sender = GlooSender(SPEC, "no.such.host.invalid")
    with pytest.raises(ChannelError):
        sender.offer()
    sender.close()


def test_a_header_that_does_not_fit_ends_the_channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pair(SPEC, False, tmp_path) as (sender, receiver):
        assert isinstance(sender, GlooSender)
        slot = sender.acquire()
        assert slot is not None
        sender.write(slot, torch.zeros(4))
        wrong = PayloadRef("channel", 1, 0, 1, SPEC.slot_bytes + 1, "uint8", (SPEC.slot_bytes + 1,))
        sender._buffers[slot] = torch.zeros(SPEC.slot_bytes + 1, dtype=torch.uint8)
        sender._outgoing.put(wrong)
        with pytest.raises(ChannelError, match="does not fit the ring"):
            receiver.receive(PayloadRef("channel", 1, 0, 1, 1, "uint8", (1,)))


def test_closed_pairs_leave_no_threads(tmp_path: Path) -> None:
    for owner_sends in (False, True):
        with pair(SPEC, owner_sends, tmp_path) as (sender, receiver):
            slot = sender.acquire()
            assert slot is not None
            sender.write(slot, torch.ones(100))
            receiver.receive(sender.publish(slot, torch.float32, (100,)))
    assert eventually(0)
