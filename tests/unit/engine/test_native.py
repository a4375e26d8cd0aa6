"""The native kernels: every instruction set of this CPU against `transformers`, and the same bits in any company."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from minedraft.engine.opening import open_model
from minedraft.errors import InternalError, SetupError
from minedraft.kv.store import KVStore
from minedraft.model import native, selfcheck
from minedraft.model.llama import LlamaModel
from minedraft.model.native import NativeLlama
from minedraft.model.ragged import Segment, assemble
from minedraft.native import binding
from minedraft.native.binding import Kernels, Kind
from tests.models import tiny_llama
from tests.unit.engine.helpers import engine, feed, full_logits, item
from tests.unit.engine.test_architectures import PROMPT, stock

SIZES: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 192, "max_position_embeddings": 640}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "biases everywhere": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "wide heads": ("llama", {"head_dim": 96}),
    "the widest heads": ("llama", {"head_dim": 256}),
    "one KV head": ("llama", {"num_key_value_heads": 1}),
    "as many KV heads": ("llama", {"num_key_value_heads": 4}),
    "seven query heads for a KV head": (
        "llama",
        {"hidden_size": 224, "num_attention_heads": 7, "num_key_value_heads": 1},
    ),
    "a vocabulary that no group divides": ("llama", {"vocab_size": 101}),
    "more columns than are summed at once": ("llama", {"intermediate_size": 1600}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "scaled rope": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}}),
    "mistral": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
}
CLOSE = 0.02  # of the largest logit: K and V are rounded to bfloat16


def compiled() -> Kernels:
    kernels, reason = binding.find()
    if kernels is None:
        pytest.fail(f"the native kernels are missing: {reason}")
    return kernels


KERNELS = compiled()


@pytest.fixture(params=KERNELS.kinds, ids=lambda kind: kind.name)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def rounded(architecture: str = "llama", **settings: Any) -> LlamaModel:
    """A random model in bfloat16."""
    module = stock(architecture, **SIZES | settings).to(torch.bfloat16)
    return LlamaModel(module, model_id=architecture)


def use(
    model: LlamaModel, kind: Kind, *, threads: int = 1, int8: bool = False, kernels: Kernels = KERNELS
) -> NativeLlama:
    made = NativeLlama(model.weights(), kernels, kind, threads=threads, int8=int8)
    model.use_native(made)
    return made


def exact(model: LlamaModel, token_ids: Sequence[int]) -> Tensor:
    """Logits of every token by the stock model in float32, with the same weights."""
    wide: Any = model.module
    restored = model.module.dtype
    try:
        wide.float()
        return full_logits(model, token_ids, attention="eager").float()
    finally:
        wide.to(restored)


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert float((found.float() - expected).abs().max()) <= CLOSE * float(expected.abs().max())


@pytest.mark.parametrize(("architecture", "settings"), MODELS.values(), ids=list(MODELS))
def test_logits_are_the_stock_models(architecture: str, settings: dict[str, Any], kind: Kind) -> None:
    model = rounded(architecture, **settings)
    expected = exact(model, [*PROMPT, 5, 6, 7])
    use(model, kind, threads=2)
    on = engine(model)
    logits = feed(on, item(1, 0, PROMPT), (50, 60))
    assert logits.dtype == torch.float32
    assert_close(logits[0], expected[len(PROMPT) - 1])
    assert_close(feed(on, item(1, len(PROMPT), (5,)), (6, 7)), expected[-3:])


def test_the_self_check_compares_it(kind: Kind) -> None:
    model = rounded()
    use(model, kind)
    assert model.attention_backend == native.NAME
    assert selfcheck.check(model) < 0.03
    model._sin = -model._sin  # torch's path is not what is computed now
    assert selfcheck.check(model) < 0.03


def test_a_wrong_layer_does_not_pass_the_self_check(kind: Kind) -> None:
    model = rounded()
    weights = model.weights()
    wrong = dataclasses.replace(weights, sin=-weights.sin)
    model.use_native(NativeLlama(wrong, KERNELS, kind, threads=1))
    with pytest.raises(SetupError, match="self-check failed"):
        selfcheck.check(model)


class Sheet:
    """One sequence's place in a store, with slots in no order."""

    def __init__(self, model: LlamaModel, seed: int) -> None:
        self.store = KVStore(
            model.num_layers, model.kv_heads, model.head_dim, num_blocks=160, block_size=4, dtype=model.dtype,
            device=model.device,
        )  # fmt: skip
        self.slots = np.random.default_rng(seed).permutation(self.store.num_slots)

    def segment(self, token_ids: Sequence[int], start: int, first_slot: int = 0) -> Segment:
        slots = self.slots[first_slot : first_slot + start + len(token_ids)].copy()
        return Segment(token_ids, start, slots, len(token_ids))


@pytest.mark.parametrize("int8", [False, True])
def test_the_same_bits_in_any_company(kind: Kind, int8: bool) -> None:
    """Whole, token by token, in chunks, beside others, on one thread or several: not one bit differs."""
    model = rounded(num_attention_heads=8, head_dim=32, vocab_size=101, attention_bias=True, mlp_bias=True)
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, 97, 75).tolist()
    others = [rng.integers(0, 97, length).tolist() for length in (1, 9, 30)]

    def computed(threads: int, chunks: Sequence[int], beside: Sequence[Sequence[int]] = ()) -> Tensor:
        run = NativeLlama(model.weights(), KERNELS, kind, threads=threads, int8=int8)
        sheet, found, start = Sheet(model, threads), [], 0
        for chunk in chunks:
            segments = [sheet.segment(tokens[start : start + chunk], start)]
            segments += [sheet.segment(other, 0, 100 + 40 * place) for place, other in enumerate(beside)]
            logits = run.forward(assemble(segments), sheet.store)
            found.append(logits[:chunk])
            start += chunk
        run.close()
        return torch.cat(found)

    expected = computed(1, [75])
    assert bool(expected.isfinite().all())
    for threads, chunks, beside in (
        (1, [1] * 75, ()),
        (2, [75], ()),
        (3, [1, 2, 3, 4, 5, 6, 7, 8, 9, 30], ()),
        (2, [13, 49, 13], others),
        (4, [5] * 15, others),
    ):
        assert torch.equal(computed(threads, chunks, beside), expected), (threads, chunks)


def test_a_long_context_in_chunks(kind: Kind) -> None:
    model = rounded()
    tokens = np.random.default_rng(0).integers(0, 97, 600).tolist()
    expected = exact(model, tokens)
    run, sheet = use(model, kind, threads=2), Sheet(model, 0)
    found = torch.cat(
        [run.forward(assemble([sheet.segment(tokens[at : at + 100], at)]), sheet.store) for at in range(0, 600, 100)]
    )
    assert_close(found, expected)


def test_a_pass_without_logits(kind: Kind) -> None:
    model = rounded()
    run, sheet = use(model, kind), Sheet(model, 0)
    segment = sheet.segment(PROMPT, 0)
    nothing = run.forward(assemble([Segment(segment.token_ids, 0, segment.kv_slots, 0)]), sheet.store)
    assert nothing.shape == (0, 97)
    assert_close(run.forward(assemble([sheet.segment([5], len(PROMPT))]), sheet.store), exact(model, [*PROMPT, 5])[-1:])


def test_8_bits_are_close_and_not_the_same(kind: Kind) -> None:
    model = rounded(attention_bias=True)
    expected = exact(model, PROMPT)
    use(model, kind, int8=True)
    model.release()  # nothing of the plain weights is needed any more
    found = feed(engine(model), item(1, 0, PROMPT[:-2]), PROMPT[-2:])
    difference = float((found - expected[-3:]).norm()) / float(expected[-3:].norm())
    assert 0.001 < difference < (0.07 if kind.panel else 0.05)  # in panels activations have 8 bits too


def test_rounding_to_8_bits() -> None:
    weight = torch.randn(6, 64, dtype=torch.bfloat16)
    weight[2] = 0
    rounded_weight, scales = native.quantize(weight)
    assert float((rounded_weight * scales[:, None] - weight.float()).abs().max()) <= float(scales.max()) * 0.51
    assert rounded_weight[2].tolist() == [0] * 64
    for width in (4, 8, 16):
        words = native.arranged(rounded_weight, Kind("wide", width))
        assert torch.equal(words.view(6, -1, width, 2, 2).transpose(2, 3).reshape(6, 64), rounded_weight)


def test_weights_in_panels() -> None:
    kind = Kind("wide", 16, 16)
    weight = torch.randn(21, 64, dtype=torch.bfloat16)
    panels = native.arranged(weight, kind)
    assert panels.shape == (2, 32, 16, 2)
    assert torch.equal(panels.transpose(1, 2).reshape(32, 64)[:21], weight)
    assert not panels[1, :, 5:].any()
    rounded_weight, _ = native.quantize(weight)
    panels = native.arranged(rounded_weight, kind)
    assert panels.shape == (2, 2, 8, 16, 4)
    assert panels[1, 1, 2, 4].tolist() == [int(rounded_weight[20, 32 + 2 * place]) + 128 for place in range(8, 12)]
    assert panels[1, 1, 5, 4].tolist() == [int(rounded_weight[20, 33 + 2 * place]) + 128 for place in range(4, 8)]
    assert bool((panels[1, :, :, 5:] == 128).all())


def test_closed_kernels_say_so() -> None:
    model = rounded()
    run, sheet = use(model, KERNELS.kinds[0]), Sheet(model, 0)
    run.close()
    run.close()
    with pytest.raises(InternalError, match="closed"):
        run.forward(assemble([sheet.segment([1], 0)]), sheet.store)


def folder_of(path: Path, **settings: Any) -> str:
    return str(tiny_llama(path / "model", **{"dtype": "bfloat16", "hidden": 128, **settings}))


def test_who_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = folder_of(tmp_path)

    def backend(**settings: Any) -> tuple[str, torch.dtype]:
        model, _ = open_model(folder, **settings)
        return model.attention_backend, model.dtype

    assert backend() == ("native", torch.bfloat16)
    assert backend(int8=True) == ("native", torch.bfloat16)
    assert backend(kernels="torch") == ("sdpa", torch.bfloat16)
    assert backend(kernels="torch", int8=True) == ("sdpa", torch.float32)
    assert backend(attention="sdpa") == ("sdpa", torch.bfloat16)
    assert backend(dtype="float32") == ("sdpa", torch.float32)
    monkeypatch.setattr("minedraft.model.native.find", lambda: (None, binding.NOT_COMPILED))
    assert backend() == ("sdpa", torch.bfloat16)


@pytest.mark.parametrize(
    ("settings", "given", "reason"),
    [
        ({"dtype": "float32"}, {}, "for bfloat16 on a CPU"),
        ({"hidden": 32}, {}, "for sizes that are multiples of 8"),
        ({}, {"attention": "sdpa"}, "--attention sdpa was given"),
    ],
)
def test_native_kernels_that_cannot_be_say_why(
    settings: dict[str, Any], given: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    if "hidden" in settings:
        settings = settings | {"heads": 8}  # heads of 4 numbers
    with pytest.raises(SetupError, match=f"--kernels native is not possible: .*{reason}"):
        open_model(folder_of(tmp_path, **settings), kernels="native", **given)


def test_kernels_that_fail_the_self_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch takes their place, unless they were asked for by name."""
    folder = folder_of(tmp_path)
    forward = NativeLlama.forward
    monkeypatch.setattr(NativeLlama, "forward", lambda *arguments: -forward(*arguments))
    model, _ = open_model(folder)
    assert model.attention_backend == "sdpa"
    with pytest.raises(SetupError, match="self-check failed"):
        open_model(folder, kernels="native")


def test_a_library_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binding, "__file__", str(tmp_path / "binding.py"))
    assert binding.find() == (None, binding.NOT_COMPILED)
    (tmp_path / ("_kernels" + sysconfig.get_config_var("EXT_SUFFIX"))).write_bytes(b"no library")
    kernels, reason = binding.find()
    assert kernels is None
    assert reason.startswith("they cannot be loaded")


@pytest.mark.slow
def test_the_logic_for_avx512_without_its_instructions(tmp_path: Path) -> None:
    """Vectors of 16 floats, made of what this CPU has: all but the instructions themselves."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None or "x86_64" not in sysconfig.get_platform():
        pytest.skip("it needs a C++ compiler, on x86-64")
    sources = [str(path) for path in Path(binding.__file__).parent.glob("*.cpp")]
    flags = ["-O1", "-std=c++17", "-shared", "-fPIC", "-pthread", "-Wno-psabi", "-DLOWERED"]
    subprocess.run([compiler, *flags, *sources, "-o", str(tmp_path / "lowered.so")], check=True)
    kernels = Kernels(tmp_path / "lowered.so")
    assert kernels.kinds[:2] == (Kind("avx512_bf16", 16, 16), Kind("avx512", 16))
    for wide, int8 in itertools.product(kernels.kinds[:2], (False, True)):
        model = rounded(head_dim=96, attention_bias=True)
        expected = exact(model, [*PROMPT, 5, 6, 7])
        use(model, wide, threads=2, int8=int8, kernels=kernels)
        on = engine(model)
        tolerance = 5.0 if int8 else 1.5 if wide.panel else 1.0  # panels: activations are rounded to bfloat16 too
        for found, wanted in (
            (feed(on, item(1, 0, PROMPT)), expected[len(PROMPT) - 1 : len(PROMPT)]),
            (feed(on, item(1, len(PROMPT), (5,)), (6, 7)), expected[-3:]),
        ):
            assert float((found - wanted).abs().max()) <= tolerance * CLOSE * float(wanted.abs().max())
