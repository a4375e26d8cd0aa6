"""From settings to a tensor-parallel model: starts the other ranks, loads this one's share, checks them together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog
import torch

from minedraft.config import VerifierSettings
from minedraft.engine import memory
from minedraft.engine.build import Built, Part, assemble
from minedraft.engine.crew import Crew
from minedraft.engine.opening import check
from minedraft.engine.station import HERE, READY, Station, choose_devices
from minedraft.errors import SetupError
from minedraft.model import backends, process_group
from minedraft.model.loader import load, locate, read_config
from minedraft.model.parallel import FLAG, ParallelModel, kv_heads_of_a_rank
from minedraft.model.tokenizer import read_eos_token_ids, read_tokenizer
from minedraft.types import TokenizerFiles

START_SECONDS: Final = 300.0  # for a rank to be there: it imports torch and transformers
LOAD_SECONDS: Final = 3600.0  # for a rank to load its share
ADVICE: Final = "give more ranks, end other processes on the device, or use a smaller model or --dtype"


def build_parallel(settings: VerifierSettings) -> Built:
    """The engine of a target split over `settings.tensor_parallel` ranks, of which this process is rank 0.

    Raises SetupError in one sentence, and then leaves no other rank behind.
    """
    devices = _check(settings)
    ranks = settings.tensor_parallel
    store = process_group.open_store(ranks)
    crew = Crew([_station(settings, rank, devices[rank], store.port) for rank in range(1, ranks)])
    try:
        crew.wait_said(HERE, START_SECONDS)
        process_group.join(store, 0, ranks, torch.device(devices[0]), settings.parallel_timeout_seconds)
        model, tokenizer = _load(settings, torch.device(devices[0]), crew)
        crew.wait_said(READY, LOAD_SECONDS)
        _choose_attention(model, settings)
        if settings.self_check:
            check(model, fall_back=settings.attention == backends.AUTO)
        built = assemble(settings, Part.TARGET, model, tokenizer)
    except BaseException:
        crew.close()
        process_group.leave()
        raise
    crew.serve()
    return replace(built, close=model.close)


def _check(settings: VerifierSettings) -> list[str]:
    """The ranks' devices. Raises SetupError for what cannot be, before any process is started."""
    ranks = settings.tensor_parallel
    if settings.simulate:
        raise SetupError(f"{FLAG} {ranks} splits a real model: leave it out with --simulate")
    if not settings.model:
        raise SetupError("no model was given: pass --model FOLDER, or fetch one with `minedraft models pull demo`")
    if settings.weights == "int8":
        raise SetupError(f"{FLAG} {ranks}: weights of 8 bits cannot be split over ranks: give --weights plain")
    files = locate(Path(settings.model))
    if files.gguf is not None:
        raise SetupError(f"{FLAG} {ranks}: a GGUF model cannot be split over ranks: use its safetensors")
    kv_heads_of_a_rank(read_config(files.folder), ranks)
    return choose_devices(settings.device, ranks)


def _station(settings: VerifierSettings, rank: int, device: str, port: int) -> Station:
    return Station(
        rank=rank,
        ranks=settings.tensor_parallel,
        port=port,
        model=settings.model,
        dtype=settings.dtype,
        device=device,
        max_len=settings.max_len,
        threads=settings.threads,
        timeout_seconds=settings.parallel_timeout_seconds,
        log_level=settings.log_level,
        log_format=settings.log_format,
    )


def _load(settings: VerifierSettings, device: torch.device, crew: Crew) -> tuple[ParallelModel, TokenizerFiles]:
    files = locate(Path(settings.model))
    tokenizer = read_tokenizer(files.folder)
    with memory.telling("loading this rank's share of the weights", device, ADVICE):
        module = load(files.folder, dtype=settings.dtype, device=device, ranks=settings.tensor_parallel)
    model = ParallelModel(
        module,
        ranks=settings.tensor_parallel,
        peers=crew,
        model_id=files.model_id,
        max_len=settings.max_len,
        eos_token_ids=read_eos_token_ids(files.folder),
        tokenizer_fingerprint=tokenizer.fingerprint,
    )
    if model.device != device:
        raise SetupError(f"{FLAG}: rank 0 was loaded to {model.device} instead of {device}: unset LOCAL_RANK")
    structlog.get_logger().info(
        "model split", ranks=model.ranks, kv_heads_of_a_rank=model.kv_heads, processes=crew.pids, device=str(device)
    )
    return model, tokenizer


def _choose_attention(model: ParallelModel, settings: VerifierSettings) -> None:
    """Choose the backend as `minedraft.engine.build` does, for all ranks."""
    shape = backends.Shape(model.dtype, model.head_dim, model.device)
    choice = backends.choose(settings.attention, shape, settings.block_size)
    model.use_backend(choice.backend)
    structlog.get_logger().info("attention chosen", backend=model.attention_backend, reason=choice.reason)
