"""Shared memory: names, room, damage, and who is killed when. Two processes where it matters."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch

from minedraft.channel.segment import PAGE, Segment, sweep
from minedraft.channel.shm import WORD_BYTES, ShmReceiver, ShmSender
from minedraft.errors import ChannelError
from minedraft.types import ChannelKind, ChannelSpec
from tests.channel.other_process import Guest
from tests.channel.pairs import connect, shm

SPEC = ChannelSpec("channel", 1, ChannelKind.SHM, slots=2, slot_bytes=10_000)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_two_processes(tmp_path: Path) -> None:
    receiver = ShmReceiver(SPEC, tmp_path)
    with Guest(SPEC, tmp_path) as guest:
        receiver.seal(guest.join(receiver.offer()))
        assert names(tmp_path) == []
        ref = guest.send(9000, 42)
        view = receiver.receive(ref)
        assert view.tolist() == [42] * 9000
        guest.kill()
        assert view.tolist() == [42] * 9000  # what was sent stays
        receiver.release(ref)
        receiver.close()
    assert names(tmp_path) == []


@pytest.mark.parametrize("joined", [False, True])
def test_an_owner_killed_before_it_sealed_is_swept_up_after(tmp_path: Path, joined: bool) -> None:
    with Guest(SPEC, tmp_path) as owner:
        offer = bytes.fromhex(owner.ask("offer"))
        if joined:
            receiver = ShmReceiver(SPEC, tmp_path)
            receiver.join(offer)
        assert sweep(tmp_path) == 0, "the owner lives"
        owner.kill()
    assert len(names(tmp_path)) == 1
    other = ShmReceiver(SPEC, tmp_path)
    other.offer()
    assert json.loads(offer)["name"] not in names(tmp_path)
    other.close()
    assert names(tmp_path) == []


def test_a_guest_killed_before_it_joined_leaves_nothing(tmp_path: Path) -> None:
    receiver = ShmReceiver(SPEC, tmp_path)
    with Guest(SPEC, tmp_path) as guest:
        receiver.offer()
        guest.kill()
    receiver.close()
    assert names(tmp_path) == []


def test_sweeping_leaves_alone_what_is_alive_new_or_not_ours(tmp_path: Path) -> None:
    alive = Segment.create(tmp_path, PAGE)
    fresh = tmp_path / f"minedraft-{'0' * 32}.new"
    stranger = tmp_path / "minedraft-notes"
    for path in (fresh, stranger):
        path.touch()
    assert sweep(tmp_path) == 0
    os.utime(fresh, (time.time() - 600,) * 2)
    assert sweep(tmp_path) == 1
    alive.close()
    del alive  # the mapping keeps the file, and with it the lock
    assert sweep(tmp_path) == 1
    assert names(tmp_path) == ["minedraft-notes"]


def test_a_full_folder_is_said_with_the_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    receiver = ShmReceiver(ChannelSpec("c", 1, ChannelKind.SHM, 64, 1 << 20), tmp_path)
    with pytest.raises(ChannelError, match=r"no room for 64 MiB .*--channel-mib"):
        receiver.offer()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/passwd", "minedraft-..", "", f"minedraft-{'a' * 31}/", f"minedraft-{'A' * 32}"]
)
def test_an_offer_cannot_name_a_file_elsewhere(tmp_path: Path, name: str) -> None:
    sender = ShmSender(SPEC, tmp_path)
    honest = json.loads(ShmReceiver(SPEC, tmp_path).offer())
    with pytest.raises(ChannelError, match="not the name"):
        sender.join(json.dumps(honest | {"name": name}).encode())


@pytest.mark.parametrize(
    "offer", [b"", b"\xff", b"[]", b"{}", b'{"version": 2, "name": "x", "nbytes": 1}', b'{"version": 1}']
)
def test_offers_without_sense_are_refused(tmp_path: Path, offer: bytes) -> None:
    with pytest.raises(ChannelError):
        ShmSender(SPEC, tmp_path).join(offer)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    receiver = ShmReceiver(SPEC, tmp_path)
    honest = json.loads(receiver.offer())
    secret.write_bytes(bytes(honest["nbytes"]))
    name = f"minedraft-{'b' * 32}"
    (tmp_path / name).symlink_to(secret)
    with pytest.raises(ChannelError, match="same --shm-dir"):
        ShmSender(SPEC, tmp_path).join(json.dumps(honest | {"name": name}).encode())
    assert not any(secret.read_bytes())


def test_another_folder_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    receiver, sender = ShmReceiver(SPEC, tmp_path / "one"), ShmSender(SPEC, tmp_path / "two")
    offer = receiver.offer()
    with pytest.raises(ChannelError, match="same --shm-dir"):
        sender.join(offer)
    with pytest.raises(ChannelError, match="another file"):
        receiver.seal(bytes(WORD_BYTES - 1))


def test_a_file_of_another_size_is_refused(tmp_path: Path) -> None:
    receiver = ShmReceiver(SPEC, tmp_path)
    offer = receiver.offer()
    os.truncate(tmp_path / json.loads(offer)["name"], 100)
    with pytest.raises(ChannelError, match="100 bytes"):
        ShmSender(SPEC, tmp_path).join(offer)


@pytest.mark.parametrize("place", [0, 5, 9, 20, 30, 35])
def test_a_damaged_header_is_noticed(tmp_path: Path, place: int) -> None:
    with shm(SPEC, False, tmp_path) as (sender, receiver):
        assert isinstance(sender, ShmSender)
        slot = sender.acquire()
        assert slot is not None
        sender.write(slot, torch.zeros(50))
        ref = sender.publish(slot, torch.float32, (50,))
        receiver.receive(ref)
        sender._link.header(slot)[place] ^= 1
        with pytest.raises(ChannelError):
            receiver.receive(ref)
        with pytest.raises(ChannelError):
            receiver.release(ref)


def test_reading_is_in_place(tmp_path: Path) -> None:
    """No copy on the reading side: what the writer writes later shows in the view."""
    with shm(SPEC, True, tmp_path) as (sender, receiver):
        slot = sender.acquire()
        assert slot is not None
        sender.write(slot, torch.zeros(8, dtype=torch.uint8))
        view = receiver.receive(sender.publish(slot, torch.uint8, (8,)))
        sender.write(slot, torch.ones(8, dtype=torch.uint8))
        assert view.tolist() == [1] * 8


def test_an_end_opens_once(tmp_path: Path) -> None:
    sender, receiver = ShmSender(SPEC, tmp_path), ShmReceiver(SPEC, tmp_path)
    connect(sender, receiver, False)
    with pytest.raises(ChannelError, match="opened before"):
        receiver.offer()
    receiver.close()
    with pytest.raises(ChannelError, match="closed"):
        ShmReceiver.offer(receiver)
    sender.close()
    assert names(tmp_path) == []
