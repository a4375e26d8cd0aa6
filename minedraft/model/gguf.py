"""GGUF files: loaded as plain weights, or converted once to a plain folder."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    modeling_gguf_pytorch_utils,
)

from minedraft.errors import SetupError
from minedraft.model.architectures import check_architecture
from minedraft.model.loader import one_line, quieten
from minedraft.model.tokenizer import read_eos_token_ids, read_tokenizer
from minedraft.types import TokenizerFiles


def load_gguf(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model in a GGUF file with its weights unpacked to `dtype`. Raises SetupError.

    transformers 5.23 ties a model to the packed file and refuses to save it, so its weights go into a fresh model.
    """
    quieten()
    factory: Any = AutoModelForCausalLM  # partly untyped
    try:
        config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
        check_architecture(config.model_type)
        with _without_bar():
            packed = factory.from_pretrained(
                path.parent, config=copy.deepcopy(config), gguf_file=path.name, local_files_only=True, dtype=dtype
            )
        weights = packed.state_dict()
        # Not `.to(dtype)`, which would round the rotary frequencies too.
        plain: PreTrainedModel = factory.from_config(config, dtype=dtype)
        plain.load_state_dict(weights, strict=True)
        plain.tie_weights()
        plain.generation_config = GenerationConfig.from_dict(packed.generation_config.to_dict())
    except SetupError:
        raise
    except Exception as error:  # the reader raises many kinds
        raise SetupError(f"{path} cannot be loaded: {one_line(error)}") from error
    plain.config.dtype = dtype
    return plain


def convert_gguf(gguf: Path, out: Path) -> None:
    """Write a GGUF file as a plain folder: bfloat16 safetensors, configs, tokenizer, template. Raises SetupError."""
    model = load_gguf(gguf, torch.bfloat16)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    _save_tokenizer(gguf, out)


def read_gguf_tokenizer(gguf: Path) -> tuple[TokenizerFiles, tuple[int, ...]]:
    """The tokenizer in a GGUF file, and the ids that end a generation. Raises SetupError."""
    with tempfile.TemporaryDirectory(prefix="minedraft-tokenizer-") as folder:
        _save_tokenizer(gguf, Path(folder))
        return read_tokenizer(Path(folder)), read_eos_token_ids(Path(folder))


def _save_tokenizer(gguf: Path, out: Path) -> None:
    quieten()
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, local_files_only=True)
        tokenizer.save_pretrained(out)
    except Exception as error:
        raise SetupError(f"the tokenizer in {gguf} cannot be read: {one_line(error)}") from error


@contextmanager
def _without_bar() -> Iterator[None]:
    """The reader draws a progress bar that none of transformers' switches turns off."""

    def plain(tensors: Iterable[object], **_: object) -> Iterable[object]:
        return tensors

    reader: Any = modeling_gguf_pytorch_utils
    drawn = reader.tqdm
    reader.tqdm = plain
    try:
        yield
    finally:
        reader.tqdm = drawn
