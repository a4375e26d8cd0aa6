"""Models from disk: a folder of safetensors, a folder with one GGUF file, or a GGUF file.

No network, no code from the model folder, no pickled weights.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from minedraft.errors import SetupError
from minedraft.model import draft_vocabulary
from minedraft.model.architectures import check_architecture

if TYPE_CHECKING:  # importing transformers takes seconds, which a simulated model need not wait for
    from transformers import PretrainedConfig, PreTrainedModel

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
AUTO: Final = "auto"


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """Where a model lies."""

    folder: Path
    gguf: str | None  # name of the GGUF file in the folder; None for safetensors

    @property
    def model_id(self) -> str:
        """A short name for people: the folder's or the GGUF file's."""
        return self.folder.resolve().name if self.gguf is None else Path(self.gguf).stem


def locate(path: Path) -> ModelFiles:
    """Find the model that `path` names. Raises SetupError that says what is missing."""
    if path.is_file():
        if path.suffix != ".gguf":
            raise SetupError(f"{path} is neither a folder nor a .gguf file: give the model's folder")
        return ModelFiles(path.parent, path.name)
    if not path.is_dir():
        raise SetupError(
            f"there is no model at {path}: give a model's folder, or fetch one with `minedraft models pull`"
        )
    ggufs = sorted(path.glob("*.gguf"))
    if (path / "config.json").is_file():
        if any(path.glob("*.safetensors")):
            return ModelFiles(path, None)
        if not ggufs:
            raise SetupError(
                f"{path} has no *.safetensors: other weights are not read, convert them with save_pretrained"
            )
    if len(ggufs) == 1:
        return ModelFiles(path, ggufs[0].name)
    if ggufs:
        raise SetupError(f"{path} holds {len(ggufs)} GGUF files: give the path of one of them")
    raise SetupError(f"{path} has no config.json: give the folder that holds the model's config.json and *.safetensors")


def choose_device(name: str) -> torch.device:
    """The torch device of that name; "auto" is CUDA where there is one, else the CPU. Raises SetupError."""
    if name == AUTO:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SetupError(f"--device {name} is not a torch device: give auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
        raise SetupError(f"--device {name}: torch finds no such CUDA device, give --device cpu or auto")
    if device.type not in {"cpu", "cuda"}:
        raise SetupError(f"--device {name} is not supported: give auto, cpu, cuda or cuda:0")
    return device


def load(path: Path, *, dtype: str = AUTO, device: torch.device | None = None, ranks: int = 1) -> PreTrainedModel:
    """The causal language model at `path`, ready for inference. Raises SetupError in one sentence.

    `dtype` is a key of DTYPES or "auto", the type that the checkpoint names (float32 when it names none, bfloat16 for
    GGUF). Of `ranks` ranks, which have joined their group (`minedraft.model.process_group`), each calls this at the
    same time and reads its own share of the weights onto the device that it joined with.
    """
    quieten()
    files = locate(path)
    if dtype != AUTO and dtype not in DTYPES:
        raise SetupError(f"--dtype {dtype} is unknown: give auto, {', '.join(DTYPES)}")
    if files.gguf is None:
        model = _load_safetensors(files.folder, dtype, ranks)
    elif ranks > 1:
        raise SetupError(f"{path}: a GGUF model cannot be split over ranks: use its safetensors")
    else:
        from minedraft.model.gguf import load_gguf

        model = load_gguf(files.folder / files.gguf, DTYPES.get(dtype, torch.bfloat16))
    module: torch.nn.Module = model.requires_grad_(False)
    module.train(False)
    if device is not None and ranks == 1:
        module.to(device)
    return model


def read_config(path: Path) -> PretrainedConfig:
    """The configuration of the safetensors model at `path`, without its weights. Raises SetupError."""
    from transformers import AutoConfig

    folder = locate(path).folder
    check_architecture(str(_read_config(folder).get("model_type", "")))
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds
        raise SetupError(f"the configuration in {folder} cannot be read: {one_line(error)}") from error
    return config


def _load_safetensors(folder: Path, dtype: str, ranks: int) -> PreTrainedModel:
    from transformers import AutoConfig, AutoModelForCausalLM, DistributedConfig

    factory: Any = AutoModelForCausalLM
    settings = _read_config(folder)
    check_architecture(str(settings.get("model_type", "")))
    if settings.get("quantization_config"):
        raise SetupError(f"{folder} holds quantized weights, which are not supported: use the model's plain weights")
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        if getattr(config, draft_vocabulary.SIZE, None):
            return draft_vocabulary.load_draft(folder, config, DTYPES.get(dtype) or config.dtype or torch.float32)
        model, report = factory.from_pretrained(
            folder,
            config=config,
            dtype=DTYPES.get(dtype) or config.dtype or torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **({"distributed_config": DistributedConfig(tp_size=ranks)} if ranks > 1 else {}),
        )
    except SetupError:
        raise
    except Exception as error:  # transformers and safetensors raise many kinds
        raise SetupError(f"the model in {folder} cannot be loaded: {one_line(error)}") from error
    # transformers fills what is missing with random numbers and goes on.
    for problem in ("missing_keys", "mismatched_keys"):
        if report[problem]:
            named = ", ".join(sorted(str(key) for key in report[problem])[:3])
            raise SetupError(
                f"the weights in {folder} do not fit their config.json ({problem}: {named}): fetch them again"
            )
    loaded: PreTrainedModel = model
    return loaded


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise SetupError(f"{folder / 'config.json'} is not JSON: {one_line(error)}") from None
    if not isinstance(settings, dict):
        raise SetupError(f"{folder / 'config.json'} does not hold a JSON object")
    return settings


def quieten() -> None:
    """Errors come as exceptions here; transformers' log lines and progress bars are switched off for the process."""
    import transformers

    talk: Any = transformers.logging
    talk.set_verbosity(logging.CRITICAL)
    talk.disable_progress_bar()


def one_line(error: Exception, limit: int = 300) -> str:
    """An error's text on one line, shortened."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."
