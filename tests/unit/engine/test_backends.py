"""Which attention backend is chosen, from what the machine has and the model asks. No GPU is used."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from minedraft.errors import SetupError
from minedraft.model import backends
from minedraft.model.backends import Choice, Shape, choose
from minedraft.model.flash import FlashBackend, FlashFunction, find_flash
from minedraft.model.sdpa import SdpaBackend
from tests.unit.engine.flash_double import flash_attn_varlen_func

GPU = torch.device("cuda")


def there(device: torch.device) -> tuple[FlashFunction | None, str]:
    return flash_attn_varlen_func, "it is there"


def missing(device: torch.device) -> tuple[FlashFunction | None, str]:
    return None, "the package flash-attn cannot be imported (no such thing)"


def unasked(device: torch.device) -> tuple[FlashFunction | None, str]:
    raise AssertionError("the machine was asked in vain")


def shape(dtype: torch.dtype = torch.bfloat16, head_dim: int = 128) -> Shape:
    return Shape(dtype, head_dim, GPU)


@pytest.mark.parametrize("wanted", ["auto", "flash_attn"])
@pytest.mark.parametrize(("block_size", "pages"), [(0, 256), (256, 256), (1024, 1024)])
def test_flash_where_all_fits(wanted: str, block_size: int, pages: int) -> None:
    choice = choose(wanted, shape(), block_size, there)
    assert isinstance(choice.backend, FlashBackend)
    assert choice.backend.block_size == pages


MISFITS = [
    (shape(torch.float32), 0, "computes in float16 or bfloat16, and the model is float32"),
    (shape(torch.float64), 0, "the model is float64"),
    (shape(head_dim=320), 0, "heads of at most 256 numbers"),
    (shape(head_dim=100), 0, "a multiple of 8, and the model's have 100"),
    (shape(), 16, "multiples of 256 tokens, and --block-size is 16"),
    (shape(), 384, "--block-size is 384"),
]


@pytest.mark.parametrize(("asked", "block_size", "reason"), MISFITS)
def test_what_does_not_fit_is_told(asked: Shape, block_size: int, reason: str) -> None:
    choice = choose("auto", asked, block_size, unasked)
    assert isinstance(choice.backend, SdpaBackend)
    assert reason in choice.reason
    with pytest.raises(SetupError, match=r"--attention flash_attn is not possible: .*" + reason.replace("(", r"\(")):
        choose("flash_attn", asked, block_size, unasked)


def test_without_the_package() -> None:
    choice = choose("auto", shape(), 0, missing)
    assert choice == Choice(choice.backend, "flash_attn is not possible: " + missing(GPU)[1])
    assert choice.backend.name == "sdpa"
    with pytest.raises(SetupError, match=r"cannot be imported \(no such thing\); give --attention auto or sdpa"):
        choose("flash_attn", shape(), 0, missing)


def test_sdpa_when_it_is_asked_for() -> None:
    assert choose("sdpa", shape(), 16, unasked).backend.name == "sdpa"


def test_default_block_sizes() -> None:
    assert [backends.default_block_size(name) for name in ("sdpa", "flash_attn", "none")] == [16, 256, 16]


def test_a_cpu_has_no_flash() -> None:
    assert find_flash(torch.device("cpu")) == (None, "it needs a CUDA device, and this is cpu")


def capability(monkeypatch: pytest.MonkeyPatch, major: int, minor: int) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, minor))


def test_an_old_gpu_has_no_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    capability(monkeypatch, 7, 5)
    assert find_flash(GPU) == (None, "it needs compute capability 8.0 (Ampere) or newer, and cuda has 7.5")


def test_an_installation_without_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    capability(monkeypatch, 9, 0)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    function, reason = find_flash(GPU)
    assert function is None
    assert reason.startswith("the package flash-attn cannot be imported")


def test_an_installation_with_flash(monkeypatch: pytest.MonkeyPatch) -> None:
    capability(monkeypatch, 12, 0)
    package = types.ModuleType("flash_attn")
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    assert find_flash(GPU) == (None, "the package flash-attn has no flash_attn_varlen_func")
    package.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    assert find_flash(GPU)[0] is flash_attn_varlen_func
