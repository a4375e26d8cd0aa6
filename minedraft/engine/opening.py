"""From a folder to a model that may serve: loads it, chooses what computes it, checks it. Run on the engine thread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import structlog
import torch

from minedraft.config import AUTO, EngineSettings
from minedraft.engine import crossover, memory
from minedraft.errors import SetupError
from minedraft.model import backends, flash, native, selfcheck
from minedraft.model.hf import HFModel
from minedraft.model.int8 import can_quantize, quantize_linears
from minedraft.model.llama import LlamaModel, is_family
from minedraft.model.loader import choose_device, load, locate
from minedraft.model.native import Choice, NativeLlama
from minedraft.model.packed import can_pack, pack_linears
from minedraft.model.sdpa import SdpaBackend
from minedraft.model.tokenizer import read_eos_token_ids, read_tokenizer
from minedraft.native.binding import Kernels, Kind
from minedraft.types import TokenizerFiles

if TYPE_CHECKING:  # importing transformers takes seconds, which a simulated model need not wait for
    from transformers import PreTrainedModel

ADVICE: Final = "end other processes on the device, or use a smaller model or --dtype"
NATIVE: Final = "native"
TORCH: Final = "torch"


def open_model(
    path: str, *, dtype: str = AUTO, device: str = AUTO, max_len: int = 0, self_check: bool = True,
    int8: bool = False, kernels: str = AUTO, attention: str = AUTO, block_size: int = 0,
) -> tuple[HFModel, TokenizerFiles]:  # fmt: skip
    """The model and tokenizer at `path`, checked against the stock model unless told otherwise. Raises SetupError.

    `kernels` is auto, native or torch: what computes its passes. `attention` is auto, sdpa or flash_attn, for KV blocks
    of `block_size` tokens, 0 for the backend's own number. With `int8` the weights of linear layers are rounded to 8
    bits after the check.
    """
    if not path:
        raise SetupError("no model was given: pass --model FOLDER, or fetch one with `minedraft models pull demo`")
    files = locate(Path(path))
    if files.gguf is None or (files.folder / "tokenizer.json").is_file():
        tokenizer, eos_token_ids = read_tokenizer(files.folder), read_eos_token_ids(files.folder)
    else:
        from minedraft.model.gguf import read_gguf_tokenizer

        tokenizer, eos_token_ids = read_gguf_tokenizer(files.folder / files.gguf)
    place = choose_device(device)
    if int8 and place.type != "cpu":
        raise SetupError(f"--weights int8 is not available on {place}: give --weights plain")
    with memory.telling("loading the weights", place, ADVICE):
        module = load(Path(path), dtype="bfloat16" if int8 else dtype, device=place)
        choice = _choose_kernels(module, kernels, attention, int8=int8)
        if int8 and choice.kernels is None:
            if not can_quantize(place):
                raise SetupError("--weights int8 is not available with this build of PyTorch: give --weights plain")
            module = load(Path(path), dtype="float32", device=place)  # what torch's operators take
        kind = LlamaModel if is_family(module.config) else HFModel
        model = kind(
            module,
            model_id=files.model_id,
            max_len=max_len,
            eos_token_ids=eos_token_ids,
            tokenizer_fingerprint=tokenizer.fingerprint,
        )
    if not (isinstance(model, LlamaModel) and _go_native(model, choice, kernels, int8=int8, self_check=self_check)):
        _go_by_torch(model, attention, block_size, int8=int8, self_check=self_check)
    if isinstance(model, LlamaModel):
        model.release()
    return model, tokenizer


def wants_int8(settings: EngineSettings, *, draft: bool) -> bool:
    """By default for draft models on a CPU, whose rounding changes no output; never for a target unless told so."""
    if settings.weights != AUTO:
        return settings.weights == "int8"
    return draft and settings.dtype == AUTO and can_quantize(choose_device(settings.device))


def check(model: HFModel, *, fall_back: bool) -> None:
    """Run the self-check and log what it found. With `fall_back` a failing backend makes room for the reference.

    Raises SetupError when the model fails it.
    """
    with memory.telling("checking the model", model.device, ADVICE):
        difference = _checked(model, fall_back=fall_back)
    structlog.get_logger().info(
        "self-check passed", difference=float(f"{difference:.2g}"), attention=model.attention_backend
    )


def _checked(model: HFModel, *, fall_back: bool) -> float:
    """The self-check's difference. A backend that nobody asked for and that fails it makes room for the reference."""
    try:
        return selfcheck.check(model)
    except SetupError as error:
        if not fall_back or model.attention_backend == backends.SDPA:
            raise
        structlog.get_logger().warning(
            "attention backend failed the self-check; the reference takes its place",
            failed=model.attention_backend,
            backend=backends.SDPA,
            reason=str(error),
        )
    model.use_backend(SdpaBackend())
    return selfcheck.check(model)


def _choose_kernels(module: PreTrainedModel, kernels: str, attention: str, *, int8: bool) -> Choice:
    """Native kernels for the model, or the reason why not. Raises SetupError where they are wanted and cannot be."""
    config: Any = module.config
    if kernels == TORCH:
        choice = Choice(None, None, "--kernels torch was given")
    elif attention != AUTO:
        choice = Choice(None, None, f"they bring their own attention along, and --attention {attention} was given")
    elif not is_family(config):
        choice = Choice(None, None, f"they are for Llamas, and this is a {config.model_type}")
    else:
        choice = native.choose(config, module.dtype, module.device, int8=int8)
    if kernels == NATIVE and choice.kernels is None:
        raise SetupError(f"--kernels native is not possible: {choice.reason}; give --kernels auto")
    return choice


def _go_native(model: LlamaModel, choice: Choice, kernels: str, *, int8: bool, self_check: bool) -> bool:
    """Whether the native kernels compute the model from now on. Logs why not. Raises SetupError as `check` does."""
    log = structlog.get_logger()
    if choice.kernels is None or choice.kind is None:
        log.info("kernels chosen", kernels=TORCH, reason=f"native ones are not possible: {choice.reason}")
        return False
    threads = torch.get_num_threads()
    made = NativeLlama(model.weights(), choice.kernels, choice.kind, threads=threads)
    model.use_native(made)
    log.info("kernels chosen", kernels=NATIVE, instructions=choice.kind.name, threads=threads)
    if self_check:
        try:
            check(model, fall_back=False)
        except SetupError as error:
            if kernels == NATIVE:
                raise
            log.warning("native kernels failed the self-check; torch takes their place", reason=str(error))
            model.use_native(None)
            return False
    if int8:
        model.use_native(NativeLlama(model.weights(), choice.kernels, choice.kind, threads=threads, int8=True))
        log.info("weights rounded to 8 bits", kernels=NATIVE)
    elif kernels == AUTO and can_pack(model.dtype, model.device):
        _share_with_torch(model, made, choice.kernels, choice.kind)
    return True


def _share_with_torch(model: LlamaModel, made: NativeLlama, kernels: Kernels, kind: Kind) -> None:
    """Leave long passes to torch, on a CPU where it computes them faster. It packs a copy of the weights for that."""
    ours = crossover.timed(crossover.native_layer(model, kernels, kind, torch.get_num_threads()))
    if not crossover.native_limit(ours, crossover.timed(crossover.torch_layer(model))):
        return
    layers = model.replace_linears(pack_linears)
    if limit := crossover.native_limit(ours, crossover.timed(crossover.torch_layer(model))):
        model.use_native(made, limit)
        structlog.get_logger().info("long passes are computed by torch", from_tokens=limit + 1, packed_layers=layers)


def _go_by_torch(model: HFModel, attention: str, block_size: int, *, int8: bool, self_check: bool) -> None:
    """Choose the attention backend, pack or round the weights, check. Raises SetupError."""
    log = structlog.get_logger()
    shape = backends.Shape(model.dtype, model.head_dim, model.device)
    choice = backends.choose(attention, shape, block_size, flash.find_flash)
    model.use_backend(choice.backend)
    log.info("attention chosen", backend=model.attention_backend, reason=choice.reason)
    if not int8 and can_pack(model.dtype, model.device):
        log.info("weights packed for the CPU", layers=model.replace_linears(pack_linears))
    if self_check:
        check(model, fall_back=attention == AUTO)
    if int8:
        log.info("weights rounded to 8 bits", layers=model.replace_linears(quantize_linears))
