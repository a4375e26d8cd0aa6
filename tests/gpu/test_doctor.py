"""`minedraft doctor` on a machine with a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from minedraft.cli.doctor import channels
from minedraft.cli.doctor.finding import Scope
from minedraft.cli.doctor.gpus import check_device, check_gpus
from minedraft.cli.main import app
from minedraft.types import ChannelKind


def test_every_gpu_is_described(gpu: torch.device) -> None:
    found = {one.name: one for one in check_gpus(Scope())}
    assert found["gpus"].values["count"] == torch.cuda.device_count()
    assert found["gpus"].values["driver_cuda"] not in {"", "?"}
    first = found["gpu.0"]
    assert first.values["uuid"] == str(torch.cuda.get_device_properties(0).uuid)
    assert 0 < first.values["free"] <= first.values["total"]
    (device,) = check_device(Scope(device="cuda"))
    assert device.values["device"] == "cuda:0"


@pytest.mark.parametrize("kind", [ChannelKind.CUDA_IPC, ChannelKind.SHM, ChannelKind.GLOO, ChannelKind.INLINE])
def test_channels_between_services_on_one_gpu(kind: ChannelKind, gpu: torch.device, tmp_path: Path) -> None:
    pair = channels.Pair(str(tmp_path), 120.0)
    try:
        found = channels.try_once(kind, "one", "one", ("cuda:0", "cuda:0"), pair)
    finally:
        pair.close()
    assert found.is_ok, found
    assert found.values["bytes_per_second"] > 0


def test_nccl_between_two_gpus(nccl: torch.device, tmp_path: Path) -> None:
    pair = channels.Pair(str(tmp_path), 120.0)
    try:
        found = channels.try_once(ChannelKind.NCCL, "one", "one", ("cuda:1", "cuda:0"), pair)
    finally:
        pair.close()
    assert found.is_ok, found


def test_a_gpu_machine_passes(gpu: torch.device) -> None:
    result = CliRunner().invoke(app, ["doctor", "--device", "cuda", "--channel", "cuda_ipc"], env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.stdout
    assert "not run: no GPU here" not in result.stdout
