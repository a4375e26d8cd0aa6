"""The conformance suite over the real thing: the receiver here, the sender in another process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from minedraft.channel.place import make_receiver
from minedraft.types import ChannelKind, ChannelSpec
from tests.channel.pairs import PAIRS, Ends, connect
from tests.channel.test_conformance import (  # noqa: F401  # the suite's own tests and fixtures, collected here again
    ends,
    hurried,
    test_a_closed_end_says_so,
    test_a_payload_may_be_written_in_pieces_and_from_views,
    test_a_payload_that_was_overwritten_is_noticed,
    test_a_reference_that_is_wrong_is_refused_and_harms_nothing,
    test_a_slot_may_be_filled_to_the_last_byte_and_no_further,
    test_a_tensor_outlives_its_channel,
    test_any_order_of_sending_reading_and_dropping,
    test_only_what_was_acquired_can_be_published_or_reclaimed,
    test_payloads_arrive_as_they_were,
    test_references_may_come_in_any_order_and_not_at_all,
    test_slots_run_out_and_come_back,
)
from tests.gpu.far import FarProcess, FarSender, place_of

Ways = dict[str, tuple[ChannelKind, bool]]
WAYS: Ways = {
    "cuda_ipc-one-gpu": (ChannelKind.CUDA_IPC, False),
    "cuda_ipc-two-gpus": (ChannelKind.CUDA_IPC, True),
    "nccl": (ChannelKind.NCCL, True),
}


@pytest.fixture(params=WAYS)
def kind(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, neighbour: FarProcess, gpu: torch.device
) -> ChannelKind:
    """Puts the real pair in the place of the faked one."""
    name, (found, apart) = request.param, WAYS[request.param]
    far_device: torch.device = gpu
    if apart:
        far_device = request.getfixturevalue("nccl" if found is ChannelKind.NCCL else "other_gpu")
    if apart and name != "nccl" and not torch.cuda.can_device_access_peer(0, 1):
        pytest.skip("cuda:0 and cuda:1 do not reach each other's memory")

    @contextmanager
    def pair(spec: ChannelSpec, owner_sends: bool, folder: Path) -> Iterator[Ends]:
        sender = FarSender(neighbour, spec, place_of(far_device, folder))
        receiver = make_receiver(spec, place_of(gpu, folder))
        try:
            yield connect(sender, receiver, owner_sends)
        finally:
            sender.close()
            receiver.close()

    monkeypatch.setitem(PAIRS, found, pair)
    return found
