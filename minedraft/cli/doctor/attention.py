"""Whether attention computes what it should: our backends against the stock model, on small random models.

Run in a process of its own, since a GPU kernel may crash. The GPU part was not yet run on a GPU.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from minedraft.cli.doctor.finding import NO_GPU, Finding, Scope, broken, not_here, ok, one_line
from minedraft.cli.doctor.gpus import check_device
from minedraft.errors import SetupError
from minedraft.kv.pool import BlockPool
from minedraft.kv.store import KVStore
from minedraft.kv.table import BlockTable
from minedraft.model import selfcheck
from minedraft.model.attention import AttentionBackend
from minedraft.model.flash import DTYPES, OLDEST_GPU, PAGE, FlashBackend, FlashFunction, find_flash
from minedraft.model.llama import LlamaModel
from minedraft.model.loader import quieten
from minedraft.model.ragged import RaggedBatch, Segment, assemble
from minedraft.model.sdpa import SdpaBackend

HEADS: Final = 8
KV_HEADS: Final = 2
HEAD_DIM: Final = 64
MAX_LEN: Final = 1024
# (cached, new) tokens: decoding, verification, prompts, and contexts that end at, before and after a page's end.
RAGGED: Final = ((0, 1), (255, 1), (256, 1), (254, 6), (511, 5), (300, 17), (0, 256), (7, 258), (512, 1))
# Largest error, absolute and relative together, of numbers of a scale of 1: some roundings to that type.
RAGGED_TOLERANCES: Final = {torch.float16: 4e-3, torch.bfloat16: 3e-2}
STRANGE: Final = 1e4  # not NaN: a kernel may read a page's unused end, as long as it gives it no weight
SEED: Final = 1
MEND_SDPA: Final = "use the versions of torch and transformers that minedraft names, and report the reason as a fault"
MEND_FLASH: Final = "give --attention sdpa, and build flash-attn anew against this torch: --no-build-isolation"
GET_FLASH: Final = "pip install flash-attn --no-build-isolation; --attention auto takes sdpa without it"


def check_sdpa(scope: Scope) -> list[Finding]:
    """The reference backend against the stock model, in float32 on the device that --device means."""
    device = device_of(scope)
    name, title = "attention.sdpa", f"attention sdpa on {device}"
    model = random_model(torch.float32, device)
    return [_parity(name, title, model, "the stock model", MEND_SDPA)]


def check_flash(scope: Scope) -> list[Finding]:
    """flash_attn against sdpa: one call on a ragged batch, then a whole model."""
    device = device_of(scope)
    name, title = "attention.flash_attn", f"attention flash_attn on {device}"
    if not torch.cuda.is_available():
        return [not_here(name, title, NO_GPU, "it needs an NVIDIA GPU; --attention auto takes sdpa without one")]
    if device.type != "cuda":
        return [not_here(name, title, f"not run: the device is {device}", "give --device cuda")]
    function, reason = find_flash(device)
    if function is None:
        return [_without_flash(name, title, device, reason)]
    worst = {}
    for dtype in DTYPES:
        worst[dtype] = ragged_difference(function, device, dtype)
        if not worst[dtype] <= RAGGED_TOLERANCES[dtype]:
            found = f"on a ragged batch in {_plain(dtype)} it is off by {worst[dtype]:.2g}"
            return [broken(name, title, found, MEND_FLASH, difference=worst[dtype])]
    model = random_model(torch.bfloat16, device, FlashBackend(function))
    return [_parity(name, title, model, "sdpa and the stock model", MEND_FLASH)]


def random_model(dtype: torch.dtype, device: torch.device, backend: AttentionBackend | None = None) -> LlamaModel:
    """A small Llama with weights large enough that every layer matters; the same one for the same dtype."""
    quieten()
    config = LlamaConfig(
        vocab_size=512,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        head_dim=HEAD_DIM,
        max_position_embeddings=MAX_LEN,
        tie_word_embeddings=False,
    )
    module: Any = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for _, weight in sorted(module.named_parameters()):
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 1.5 / weight.shape[-1] ** 0.5)
    module.to(device=device, dtype=dtype).requires_grad_(False).train(False)
    model = LlamaModel(module, model_id="random")
    if backend is not None:
        model.use_backend(backend)
    return model


def ragged_difference(function: FlashFunction, device: torch.device, dtype: torch.dtype) -> float:
    """flash-attn in `dtype` against sdpa in float32, on sequences in scattered blocks: the largest error of a number.

    The error is relative to 1 + the number's own size. What is read from a slot that no sequence owns is far too large.
    """
    generator = torch.Generator().manual_seed(SEED)
    batch, keys, values = _ragged_batch(generator, dtype)
    query = torch.randn(len(batch.token_ids), HEADS, HEAD_DIM, generator=generator).to(dtype)
    flash = _attend(FlashBackend(function), batch, device, dtype, (query, keys, values))
    full = torch.float32
    exact = _attend(SdpaBackend(), batch, device, full, (query.to(full), keys.to(full), values.to(full)))
    errors = (flash.to(full) - exact).abs() / (1 + exact.abs())
    return float(errors.max())


def device_of(scope: Scope) -> torch.device:
    """The device that --device means, the CPU where there is none of that name."""
    (finding,) = check_device(scope)
    return torch.device(str(finding.values["device"]))


def _attend(
    backend: AttentionBackend,
    batch: RaggedBatch,
    device: torch.device,
    dtype: torch.dtype,
    tensors: tuple[Tensor, Tensor, Tensor],
) -> Tensor:
    query, keys, values = (tensor.to(device) for tensor in tensors)
    plan = backend.plan(batch, group_size=HEADS // KV_HEADS, dtype=dtype, device=device)
    return plan.attend(query, keys, values, HEAD_DIM**-0.5).cpu()


def _ragged_batch(generator: torch.Generator, dtype: torch.dtype) -> tuple[RaggedBatch, Tensor, Tensor]:
    """The batch of RAGGED, and K and V of one layer, STRANGE wherever no sequence owns the slot."""
    need = sum(-(-(cached + new) // PAGE) for cached, new in RAGGED)
    pool = BlockPool(2 * need)
    taken = pool.allocate(pool.num_blocks)
    np.random.default_rng(SEED).shuffle(taken)
    pool.release(taken)
    cpu = torch.device("cpu")
    store = KVStore(1, KV_HEADS, HEAD_DIM, num_blocks=pool.num_blocks, block_size=PAGE, dtype=dtype, device=cpu)
    segments = []
    for tensor in (store.keys[0], store.values[0]):
        tensor.fill_(STRANGE)
    for cached, new in RAGGED:
        table = BlockTable(PAGE)
        table.grow(pool, cached + new)
        slots = table.slots(0, cached + new)
        segments.append(Segment([0] * new, cached, slots, 1))
        for tensor in (store.keys[0], store.values[0]):
            drawn = torch.randn(len(slots), KV_HEADS, HEAD_DIM, generator=generator)
            tensor[torch.from_numpy(slots)] = drawn.to(dtype)
    return assemble(segments), store.keys[0], store.values[0]


def _parity(name: str, title: str, model: LlamaModel, against: str, mend: str) -> Finding:
    allowed = selfcheck.TOLERANCES[model.dtype]
    try:
        difference = selfcheck.check(model)
    except SetupError as error:
        return broken(name, title, one_line(str(error)), mend)
    found = (
        f"differs from {against} by {difference:.1g} of the logits' scale in {_plain(model.dtype)}; {allowed:g} allowed"
    )
    return ok(name, title, found, difference=difference, allowed=allowed, dtype=_plain(model.dtype))


def _without_flash(name: str, title: str, device: torch.device, reason: str) -> Finding:
    """An installed package that cannot be used on a GPU that could use it is a fault; all else is a lack."""
    able = torch.cuda.get_device_capability(device) >= OLDEST_GPU
    if able and find_spec("flash_attn") is not None:
        return broken(name, title, one_line(reason), MEND_FLASH)
    mend = GET_FLASH if able else "use sdpa, or a GPU of compute capability 8.0 or newer"
    return not_here(name, title, f"not run: {one_line(reason)}", mend)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
