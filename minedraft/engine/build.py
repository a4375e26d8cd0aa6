"""From settings to an engine: loads the model, checks it, sizes the KV cache. Run on the engine thread."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Final

import structlog

from minedraft.config import EngineSettings
from minedraft.engine import memory
from minedraft.engine.runner import Engine, new_store
from minedraft.errors import SetupError
from minedraft.kv.sizing import (
    bytes_per_block,
    choose_gpu_blocks,
    choose_num_blocks,
    machine_memory_bytes,
    pass_bytes,
)
from minedraft.kv.store import KVStore
from minedraft.model import backends, flash, graphs, selfcheck
from minedraft.model.base import CausalModel
from minedraft.model.hf import HFModel
from minedraft.model.int8 import can_quantize, quantize_linears
from minedraft.model.llama import LlamaModel, is_family
from minedraft.model.loader import choose_device, load, locate
from minedraft.model.packed import can_pack, pack_linears
from minedraft.model.parallel import ParallelModel
from minedraft.model.sdpa import SdpaBackend
from minedraft.model.simulated import simulated_draft, simulated_target
from minedraft.model.simulated_spec import SimulationSpec
from minedraft.model.tokenizer import read_eos_token_ids, read_tokenizer
from minedraft.types import TokenizerFiles

LOAD_ADVICE: Final = "end other processes on the device, or use a smaller model or --dtype"
CACHE_ADVICE: Final = "lower --memory-fraction, --kv-cache-mib or --num-blocks, or end other processes on the device"
GRAPHS_ADVICE: Final = "lower --memory-fraction or leave out --cuda-graphs"


class Part(Enum):
    """Which of the two models a simulated engine plays."""

    TARGET = "target"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Built:
    """An engine, and the tokenizer of its model."""

    engine: Engine
    tokenizer: TokenizerFiles
    close: Callable[[], None] = lambda: None  # ends what the model runs beside this process; on the engine thread


def build_engine(settings: EngineSettings, part: Part, instance_id: str = "") -> Built:
    """The engine that the settings ask for. Raises SetupError in one sentence that says what to do."""
    if settings.simulate:
        spec = SimulationSpec.parse(settings.simulate)
        simulated = simulated_target(spec) if part is Part.TARGET else simulated_draft(spec)
        model: CausalModel = simulated
        tokenizer = simulated.tokenizer
    else:
        model, tokenizer = open_model(
            settings.model,
            dtype=settings.dtype,
            device=settings.device,
            max_len=settings.max_len,
            self_check=settings.self_check,
            int8=_wants_int8(settings, part),
            attention=settings.attention,
            block_size=settings.block_size,
        )
    return assemble(settings, part, model, tokenizer, instance_id)


def assemble(
    settings: EngineSettings, part: Part, model: CausalModel, tokenizer: TokenizerFiles, instance_id: str = ""
) -> Built:
    """An engine around a model that is loaded: sizes its KV cache and allocates it. Raises SetupError."""
    if part is Part.TARGET and model.logit_token_ids is not None:
        raise SetupError(f"{settings.model} is a draft model that knows only frequent tokens: it cannot be a target")
    block_size = settings.block_size or backends.default_block_size(model.attention_backend)
    num_blocks = settings.num_blocks or _num_blocks(model, settings, block_size)
    graphed = settings.cuda_graphs and _allow_graphs(model, part)
    with memory.telling("allocating the KV cache", model.device, CACHE_ADVICE):
        store = new_store(model, num_blocks, block_size, spare_blocks=int(graphed))
        if isinstance(model, ParallelModel):
            model.use_store(store)
    if graphed and isinstance(model, HFModel):
        with memory.telling("capturing CUDA graphs", model.device, GRAPHS_ADVICE):
            _capture(model, store, settings.self_check)
    engine = Engine(
        model,
        num_blocks,
        block_size,
        instance_id or uuid.uuid4().hex,
        store,
        share_prefixes=settings.prefix_caching,
    )
    return Built(engine, tokenizer)


def open_model(
    path: str, *, dtype: str = "auto", device: str = "auto", max_len: int = 0, self_check: bool = True,
    int8: bool = False, attention: str = "auto", block_size: int = 0,
) -> tuple[HFModel, TokenizerFiles]:  # fmt: skip
    """The model and tokenizer at `path`, checked against the stock model unless told otherwise. Raises SetupError.

    `attention` is auto, sdpa or flash_attn, for KV blocks of `block_size` tokens, 0 for the backend's own number.
    With `int8` the weights of linear layers are rounded to 8 bits after the check, and all else is float32.
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
    if int8 and not can_quantize(place):
        raise SetupError(f"--weights int8 is not available on {place} with this build of PyTorch: give --weights plain")
    with memory.telling("loading the weights", place, LOAD_ADVICE):
        module = load(Path(path), dtype="float32" if int8 else dtype, device=place)
        kind = LlamaModel if is_family(module.config) else HFModel
        model = kind(
            module,
            model_id=files.model_id,
            max_len=max_len,
            eos_token_ids=eos_token_ids,
            tokenizer_fingerprint=tokenizer.fingerprint,
        )
    log = structlog.get_logger()
    choice = backends.choose(
        attention, backends.Shape(model.dtype, model.head_dim, model.device), block_size, flash.find_flash
    )
    model.use_backend(choice.backend)
    log.info("attention chosen", backend=model.attention_backend, reason=choice.reason)
    if not int8 and can_pack(model.dtype, model.device):
        log.info("weights packed for the CPU", layers=model.replace_linears(pack_linears))
    if self_check:
        check(model, fall_back=attention == backends.AUTO)
    if int8:
        log.info("weights rounded to 8 bits", layers=model.replace_linears(quantize_linears))
    if isinstance(model, LlamaModel):
        model.release()
    return model, tokenizer


def check(model: HFModel, *, fall_back: bool) -> None:
    """Run the self-check and log what it found. With `fall_back` a failing backend makes room for the reference.

    Raises SetupError when the model fails it.
    """
    with memory.telling("checking the model", model.device, LOAD_ADVICE):
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


def _allow_graphs(model: CausalModel, part: Part) -> bool:
    """Whether graphs are to be captured. Raises SetupError when they are wanted and cannot be."""
    if part is Part.TARGET:
        structlog.get_logger().warning("--cuda-graphs is for draft models: this target computes every pass anew")
        return False
    if model.simulated:
        raise SetupError("--cuda-graphs needs a real draft model: leave it out with --simulate")
    if model.attention_backend != backends.FLASH:
        raise SetupError(
            f"--cuda-graphs needs flash_attn, and this model runs on {model.attention_backend}, which gathers a "
            "context of another shape in every pass: give --attention flash_attn to learn what it lacks, or leave out "
            "--cuda-graphs"
        )
    return True


def _capture(model: HFModel, store: KVStore, self_check: bool) -> None:
    """Capture the model's decode passes over the store, check and use them."""
    max_len = min(model.max_len, store.num_slots)
    captured = graphs.DecodeGraphs(model, store, max_len=max_len, device=graphs.CudaGraphs(model.device))
    log = structlog.get_logger()
    log.info("CUDA graphs captured", sizes=captured.sizes)
    if self_check:
        difference = selfcheck.check_graphs(model, captured, store)
        log.info("CUDA graphs checked", difference=float(f"{difference:.2g}"))
    model.use_graphs(captured)


def _wants_int8(settings: EngineSettings, part: Part) -> bool:
    """By default for draft models on a CPU, whose rounding changes no output; never for a target unless told so."""
    if settings.weights != "auto":
        return settings.weights == "int8"
    return part is Part.DRAFT and settings.dtype == "auto" and can_quantize(choose_device(settings.device))


def _num_blocks(model: CausalModel, settings: EngineSettings, block_size: int) -> int:
    block_bytes = bytes_per_block(model.num_layers, model.kv_heads, model.head_dim, model.dtype.itemsize, block_size)
    if model.device.type == "cuda" and isinstance(model, HFModel):
        if model.attention_backend == backends.SDPA:
            block_bytes += block_bytes // model.num_layers  # it gathers the K and V of one layer at a time
        found = memory.device_memory(model.device)
        return choose_gpu_blocks(
            block_bytes=block_bytes,
            block_size=block_size,
            memory=model.worst_memory(found) if isinstance(model, ParallelModel) else found,
            fraction=settings.memory_fraction,
            reserve=_reserve(model),
            budget_mib=settings.kv_cache_mib,
        )
    return choose_num_blocks(
        block_bytes=block_bytes,
        block_size=block_size,
        max_len=model.max_len,
        memory_bytes=machine_memory_bytes() // (model.ranks if isinstance(model, ParallelModel) else 1),
        budget_mib=settings.kv_cache_mib,
    )


def _reserve(model: HFModel) -> int:
    """Memory that passes of this model take, bytes."""
    config: Any = model.module.config
    hidden = int(config.hidden_size)
    heads = int(config.num_attention_heads) * model.head_dim
    experts = int(getattr(config, "num_experts_per_tok", None) or 1)
    intermediate = int(getattr(config, "intermediate_size", None) or 4 * hidden) * experts
    return pass_bytes(
        hidden=hidden,
        inner=max(4 * heads, 3 * intermediate),
        vocab_size=model.vocab_size,
        itemsize=model.dtype.itemsize,
    )
