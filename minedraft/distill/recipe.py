"""The stages in order, over one folder. Each goes on where an earlier run stopped."""

from __future__ import annotations

import asyncio
import json
import os
import random
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch
from transformers import AutoTokenizer

from minedraft.client import Client
from minedraft.distill import corpus, teacher, vocabulary
from minedraft.distill.prompts import built_in, read_prompts
from minedraft.distill.student import Student
from minedraft.distill.teacher import Teacher
from minedraft.distill.training import Training, TrainingOptions, parameters
from minedraft.distill.trial import Trial, measure
from minedraft.errors import SetupError
from minedraft.model.loader import choose_device, load, locate
from minedraft.model.tokenizer import read_eos_token_ids

KEPT: Final = 64  # samples that are scored and never learned from
SCORES: Final = 20  # times that a training is scored and saved
Progress = Callable[[str, int, int, str], None]
"""(stage, done, of how many, a word on how it goes)"""
Serving = Callable[[Path | None], AbstractContextManager[str]]
"""Services for the target with that draft model, or none; gives the coordinator's address."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to make, from what, and how long to try."""

    target: Path
    folder: Path
    training: TrainingOptions
    layers: tuple[int, ...] = (0, 1, -1)
    draft_vocab_size: int = 8192
    samples: int = 4000
    max_new_tokens: int = 256
    prompts: Path | None = None  # default: the built-in ones
    given: tuple[Path, ...] = ()  # corpora that exist; their samples count
    device: str = "auto"
    trial_prompts: Path | None = None
    trial_temperatures: tuple[float, ...] = field(default=(0.0, 0.8))

    @property
    def drafter(self) -> Path:
        """The folder of the finished draft model."""
        return self.folder / "drafter"


def distill(recipe: Recipe, serving: Serving, progress: Progress) -> dict[str, Any]:
    """Make the draft model; what came out, as it is written to report.json. Raises SetupError."""
    if locate(recipe.target).gguf:
        raise SetupError(f"{recipe.target} is GGUF: distill needs the model as a folder of safetensors")
    recipe.folder.mkdir(parents=True, exist_ok=True)
    samples = _corpus(recipe, serving, progress)
    target = load(recipe.target, dtype="bfloat16", device=choose_device(recipe.device))
    teaching, shards = Teacher(target), recipe.folder / "targets"
    total, done = sum(len(sample.completion_ids) for sample in samples), 0

    def taught(tokens: int) -> None:
        nonlocal done
        done += tokens
        progress("read", done, total, "tokens")

    teacher.teach(teaching, samples, shards, taught)
    lessons = teacher.lessons(samples, shards)
    random.Random(recipe.training.seed).shuffle(lessons)
    keep = min(KEPT, len(lessons) // 8)
    kept, learned = lessons[:keep], lessons[keep:]
    if not kept:
        raise SetupError(f"{len(lessons)} samples are too few: at least 8 are needed")
    vocab_size = teaching.head_weight.shape[0]
    token_ids = vocabulary.frequent(
        [lesson.sample for lesson in learned],
        min(recipe.draft_vocab_size, vocab_size),
        vocab_size,
        [token for token in read_eos_token_ids(recipe.target) if token < vocab_size],
    )
    student = Student(target, recipe.layers, token_ids).to(teaching.device)
    training = Training(student, teaching.head_weight, learned, kept, recipe.training, recipe.folder)
    sharpness = _train(training, recipe, progress)
    report = {
        "target": recipe.target.resolve().name,
        "layers": list(recipe.layers),
        "draft_vocab_size": len(token_ids),
        "draft_vocab_coverage": vocabulary.coverage([lesson.sample for lesson in kept], token_ids),
        "trained_parameters": parameters(student),
        "samples": len(lessons),
        "completion_tokens": total,
        "training": asdict(recipe.training),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "history": training.history,
        "sharpness": sharpness,
        "trials": [asdict(trial) for trial in _trials(recipe, serving, progress)],
    }
    unfinished = recipe.folder / "report.json.part"
    unfinished.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(unfinished, recipe.folder / "report.json")
    return report


def _corpus(recipe: Recipe, serving: Serving, progress: Progress) -> list[corpus.Sample]:
    """The given samples and the target's own, as many as asked for."""
    path = recipe.folder / "corpus.jsonl"
    given = [sample for file in recipe.given for sample in corpus.read(file)]
    own = list(corpus.read(path)) if path.exists() else []
    missing = recipe.samples - len(given) - len(own)
    if missing > 0:
        answered = {sample.prompt for sample in own}
        asked = list(islice((prompt for prompt in _prompts(recipe) if prompt not in answered), missing))
        tokenizer: Any = AutoTokenizer.from_pretrained(recipe.target, local_files_only=True, trust_remote_code=False)
        prompts = [(text, _chat_ids(tokenizer, text)) for text in asked]
        done = 0

        def written(sample: corpus.Sample) -> None:
            nonlocal done
            done += 1
            progress("write", done, len(prompts), "answers")

        if prompts:
            with serving(None) as address:
                asyncio.run(corpus.write_more(address, path, prompts, recipe.max_new_tokens, written))
            own = list(corpus.read(path))
    return [*given, *own][: recipe.samples]


def _prompts(recipe: Recipe) -> Iterable[str]:
    return built_in(recipe.training.seed) if recipe.prompts is None else read_prompts(recipe.prompts)


def _chat_ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    """The prompt as a server would feed it: through the chat template where the model has one."""
    if tokenizer.chat_template is None:
        return tuple(tokenizer(text)["input_ids"])
    chat = [{"role": "user", "content": text}]
    return tuple(tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)["input_ids"])


def _train(training: Training, recipe: Recipe, progress: Progress) -> float:
    """Train and export; the sharpness that was found best."""
    training.resume()
    wanted = recipe.training.tokens
    losses: list[float] = []

    def learned(_: int, loss: float) -> None:
        losses.append(loss)
        recent = losses[-20:]
        progress("learn", min(training.seen, wanted), wanted, f"tokens, loss {sum(recent) / len(recent):.3f}")

    while training.seen < wanted:
        training.run(training.seen + max(1, wanted // SCORES), learned)
        training.score()
        training.save()
    sharpness = training.sharpness()
    training.student.sharpen(sharpness)  # after the last save: a run that goes on starts from the plain weights
    training.student.export(recipe.drafter, recipe.target)
    return sharpness


def _trials(recipe: Recipe, serving: Serving, progress: Progress) -> list[Trial]:
    if recipe.trial_prompts is None:
        return []
    prompts, found = read_prompts(recipe.trial_prompts), []
    total, done = len(prompts) * len(recipe.trial_temperatures), 0

    def asked() -> None:
        nonlocal done
        done += 1
        progress("try", done, total, "prompts")

    with serving(recipe.drafter) as address, Client(address) as client:
        for temperature in recipe.trial_temperatures:
            found.append(measure(client, prompts, temperature, 128, asked))
    return found
