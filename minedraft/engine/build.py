"""From settings to an engine: loads the model, checks it, sizes the KV cache. Run on the engine thread."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import structlog
import torch

from minedraft.config import EngineSettings
from minedraft.engine.runner import Engine
from minedraft.errors import SetupError
from minedraft.kv.sizing import bytes_per_block, choose_num_blocks, machine_memory_bytes
from minedraft.model import selfcheck
from minedraft.model.base import CausalModel
from minedraft.model.hf import HFModel
from minedraft.model.int8 import can_quantize, quantize_linears
from minedraft.model.llama import LlamaModel, is_family
from minedraft.model.loader import choose_device, load, locate
from minedraft.model.packed import can_pack, pack_linears
from minedraft.model.simulated import simulated_draft, simulated_target
from minedraft.model.simulated_spec import SimulationSpec
from minedraft.model.tokenizer import read_eos_token_ids, read_tokenizer
from minedraft.types import TokenizerFiles


class Part(Enum):
    """Which of the two models a simulated engine plays."""

    TARGET = "target"
    DRAFT = "draft"


@dataclass(frozen=True, slots=True)
class Built:
    """An engine, and the tokenizer of its model."""

    engine: Engine
    tokenizer: TokenizerFiles


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
        )
    if part is Part.TARGET and model.logit_token_ids is not None:
        raise SetupError(f"{settings.model} is a draft model that knows only frequent tokens: it cannot be a target")
    num_blocks = settings.num_blocks or _num_blocks(model, settings)
    engine = Engine(model, num_blocks, settings.block_size, instance_id or uuid.uuid4().hex)
    return Built(engine, tokenizer)


def open_model(
    path: str, *, dtype: str = "auto", device: str = "auto", max_len: int = 0, self_check: bool = True,
    int8: bool = False,
) -> tuple[HFModel, TokenizerFiles]:  # fmt: skip
    """The model and tokenizer at `path`, checked against the stock model unless told otherwise. Raises SetupError.

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
    if not int8 and can_pack(model.dtype, model.device):
        log.info("weights packed for the CPU", layers=model.replace_linears(pack_linears))
    if self_check:
        difference = selfcheck.check(model)
        log.info("self-check passed", difference=float(f"{difference:.2g}"))
    if int8:
        log.info("weights rounded to 8 bits", layers=model.replace_linears(quantize_linears))
    if isinstance(model, LlamaModel):
        model.release()
    return model, tokenizer


def _wants_int8(settings: EngineSettings, part: Part) -> bool:
    """By default for draft models on a CPU, whose rounding changes no output; never for a target unless told so."""
    if settings.weights != "auto":
        return settings.weights == "int8"
    return part is Part.DRAFT and settings.dtype == "auto" and can_quantize(choose_device(settings.device))


def _num_blocks(model: CausalModel, settings: EngineSettings) -> int:
    on_gpu = model.device.type == "cuda"
    # Of a GPU's memory only what the weights have left.
    memory = torch.cuda.mem_get_info(model.device)[0] if on_gpu else machine_memory_bytes()
    return choose_num_blocks(
        block_bytes=bytes_per_block(
            model.num_layers, model.kv_heads, model.head_dim, model.dtype.itemsize, settings.block_size
        ),
        block_size=settings.block_size,
        max_len=model.max_len,
        memory_bytes=memory,
        budget_mib=settings.kv_cache_mib,
    )
