"""From settings to an engine: opens the model, sizes the KV cache. Run on the engine thread."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

import structlog

from minedraft.config import EngineSettings
from minedraft.engine import memory
from minedraft.engine.opening import open_model, wants_int8
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
from minedraft.model import backends, graphs, selfcheck
from minedraft.model.base import CausalModel
from minedraft.model.hf import HFModel
from minedraft.model.parallel import ParallelModel
from minedraft.model.simulated import simulated_draft, simulated_target
from minedraft.model.simulated_spec import SimulationSpec
from minedraft.types import TokenizerFiles

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
            int8=wants_int8(settings, draft=part is Part.DRAFT),
            kernels=settings.kernels,
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
