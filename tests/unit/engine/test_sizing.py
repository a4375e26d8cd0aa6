"""How many KV blocks."""

from __future__ import annotations

from pathlib import Path

import pytest

from minedraft.errors import SetupError
from minedraft.kv import sizing
from minedraft.kv.sizing import MIB, bytes_per_block, choose_num_blocks, machine_memory_bytes


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
