"""How many KV blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from minedraft.errors import SetupError
from minedraft.kv import sizing
from minedraft.kv.sizing import (
    GIB,
    MIB,
    DeviceMemory,
    bytes_per_block,
    choose_gpu_blocks,
    choose_num_blocks,
    machine_memory_bytes,
    out_of_memory,
    pass_bytes,
)


def test_bytes_per_block() -> None:
    # 30 layers of 3 heads of 64 values, K and V, two bytes each, 16 tokens
    assert bytes_per_block(30, 3, 64, 2, 16) == 2 * 30 * 3 * 64 * 2 * 16


def test_budget_is_filled_and_not_exceeded() -> None:
    blocks = choose_num_blocks(block_bytes=3 * MIB, block_size=16, max_len=8192, memory_bytes=0, budget_mib=100)
    assert blocks == 33


def test_default_holds_64_sequences_of_2048_tokens() -> None:
    blocks = choose_num_blocks(block_bytes=1, block_size=16, max_len=8192, memory_bytes=1 << 40)
    assert blocks * 16 == 64 * 2048


def test_default_holds_64_sequences_of_a_short_model() -> None:
    assert choose_num_blocks(block_bytes=1, block_size=16, max_len=100, memory_bytes=1 << 40) == 64 * 7


def test_default_takes_a_quarter_of_the_memory_at_most() -> None:
    assert choose_num_blocks(block_bytes=MIB, block_size=16, max_len=8192, memory_bytes=400 * MIB) == 100


def test_blocks_without_bytes() -> None:
    assert choose_num_blocks(block_bytes=0, block_size=16, max_len=32768, memory_bytes=0) == 64 * 128
    assert choose_num_blocks(block_bytes=0, block_size=16, max_len=32768, memory_bytes=0, budget_mib=1) == 64 * 2048


def test_too_small_a_budget_is_said() -> None:
    with pytest.raises(SetupError, match="--kv-cache-mib"):
        choose_num_blocks(block_bytes=3 * MIB, block_size=16, max_len=8192, memory_bytes=0, budget_mib=2)


@pytest.mark.parametrize(("limit", "share"), [("max", 1.0), ("1048576", None)])
def test_memory_of_a_container(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, share: float | None
) -> None:
    machine = machine_memory_bytes()
    assert machine > 0
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    monkeypatch.setattr(sizing, "CGROUP_LIMIT", tmp_path / "memory.max")
    assert machine_memory_bytes() >= machine if share else machine_memory_bytes() == MIB


def test_memory_without_cgroups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizing, "CGROUP_LIMIT", tmp_path / "nothing")
    assert machine_memory_bytes() > 0


# A GPU of 80 GiB: the numbers are made up, none is asked of a device.


def gpu_blocks(*, own: int, free: int, fraction: float = 0.9, reserve: int = 1, budget_mib: int = 0) -> int:
    """Blocks of 1 MiB; sizes in GiB."""
    memory = DeviceMemory(total=80 * GIB, free=free * GIB, own=own * GIB)
    return choose_gpu_blocks(
        block_bytes=MIB,
        block_size=256,
        memory=memory,
        fraction=fraction,
        reserve=reserve * GIB,
        budget_mib=budget_mib,
    )


def test_weights_cache_and_passes_take_the_fraction() -> None:
    assert gpu_blocks(own=16, free=63) == (72 - 16 - 1) * 1024


def test_what_others_hold_is_not_taken() -> None:
    assert gpu_blocks(own=16, free=20) == (20 - 1) * 1024


def test_two_services_share_a_gpu_by_their_fractions() -> None:
    """Whoever comes second finds its part, as long as the fractions leave room for what is in neither."""
    verifier = gpu_blocks(own=32, free=47, fraction=0.75)
    taken = 32 + 1 + verifier // 1024
    drafter = gpu_blocks(own=2, free=79 - taken - 2, fraction=0.15)
    assert (verifier, drafter) == ((60 - 32 - 1) * 1024, (12 - 2 - 1) * 1024)


def test_a_budget_replaces_the_fraction() -> None:
    assert gpu_blocks(own=16, free=63, fraction=0.1, budget_mib=4096) == 4096


@pytest.mark.parametrize(
    ("numbers", "said"),
    [
        ({"own": 75, "free": 4}, ["larger --memory-fraction", "of 80.00 GiB, 75.00 hold", "leaves 0.00 with", "0.9"]),
        ({"own": 16, "free": 1}, ["1.00 are free", "1.00 are kept", "a block of 256 tokens takes 1.0 MiB"]),
        ({"own": 16, "free": 5, "budget_mib": 5000}, ["--kv-cache-mib 5000", "smaller --kv-cache-mib"]),
    ],
)
def test_no_room_is_said_with_the_numbers(numbers: dict[str, int], said: list[str]) -> None:
    with pytest.raises(SetupError) as caught:
        gpu_blocks(**numbers)
    for words in said:
        assert words in str(caught.value)


def test_memory_of_passes_grows_with_the_model() -> None:
    small = pass_bytes(hidden=576, inner=3 * 1536, vocab_size=49_152, itemsize=2)
    large = pass_bytes(hidden=5120, inner=3 * 25_600, vocab_size=151_936, itemsize=2)
    assert 0.2 * GIB < small < 0.5 * GIB
    assert 1 * GIB < large < 2 * GIB


def test_out_of_memory_says_the_numbers() -> None:
    memory = DeviceMemory(total=24 * GIB, free=GIB // 2)
    assert out_of_memory("loading", 3 * GIB, memory, "lower it") == (
        "out of memory while loading: 3.00 GiB more was asked for, and 0.50 of 24.00 GiB are free: lower it"
    )
    assert "more was asked for" in out_of_memory("loading", None, memory, "lower it")
