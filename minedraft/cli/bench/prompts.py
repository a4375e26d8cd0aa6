"""The prompts of a bench: from a file, or made up the same way every time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from minedraft.errors import SetupError

SUBJECTS: Final = (
    "a lighthouse keeper", "the water cycle", "a chess opening", "sourdough bread", "the history of bridges",
    "a sorting algorithm", "migrating birds", "a rainy market day", "the phases of the moon", "an old violin",
    "city gardens", "how glaciers move", "a train timetable",
)  # fmt: skip
TASKS: Final = (
    "Write a short story about {}.",
    "Explain {} to a child of ten.",
    "List seven facts about {}, one a line.",
    "Write a letter to a friend about {}.",
    "Give three arguments for and three against spending a year on {}.",
)


def synthetic(count: int) -> list[str]:
    """`count` different prompts, the same ones in every run."""
    made = []
    for number in range(count):
        task = TASKS[number % len(TASKS)].format(SUBJECTS[number % len(SUBJECTS)])
        made.append(task if number < len(TASKS) * len(SUBJECTS) else f"{task} This is version {number}.")
    return made


def from_file(path: Path) -> list[str]:
    """The prompts of a file with one object a line, each with `prompt`. Raises SetupError that names the line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SetupError(f"--prompts: {path} cannot be read: {error}") from error
    found = [_prompt(path, number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not found:
        raise SetupError(f"--prompts: {path} has no prompts")
    return found


def cycled(prompts: list[str], count: int) -> list[str]:
    """`count` prompts, from the beginning again when there are fewer."""
    return [prompts[number % len(prompts)] for number in range(count)]


def _prompt(path: Path, number: int, line: str) -> str:
    try:
        entry = json.loads(line)
    except json.JSONDecodeError as error:
        raise SetupError(f"--prompts: {path}, line {number} is not JSON: {error}") from error
    prompt = entry.get("prompt") if isinstance(entry, dict) else None
    if not isinstance(prompt, str) or not prompt:
        raise SetupError(f'--prompts: {path}, line {number} has no text under "prompt"')
    return prompt
