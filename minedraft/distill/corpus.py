"""Text that the target wrote itself: the best data for its drafter, since it is what there will be to draft."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from minedraft.client import AsyncClient
from minedraft.errors import SetupError
from minedraft.generation import GenerateRequest, TokenIds
from minedraft.types import SamplingParams

TEMPERATURES: Final = (0.0, 0.0, 0.6, 0.8, 1.0)
TOP_P: Final = 0.95
IN_FLIGHT: Final = 64


@dataclass(frozen=True, slots=True)
class Sample:
    """One answer, with the prompt as the target saw it."""

    prompt: str
    temperature: float
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    @property
    def token_ids(self) -> tuple[int, ...]:
        return self.prompt_ids + self.completion_ids


def read(path: Path) -> Iterator[Sample]:
    """The samples of a JSON Lines file, plain or gzipped. Raises SetupError for a line that is none."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                fields = json.loads(line)
                yield Sample(
                    str(fields["prompt"]),
                    float(fields["temperature"]),
                    tuple(map(int, fields["prompt_ids"])),
                    tuple(map(int, fields["completion_ids"])),
                )
            except (ValueError, KeyError, TypeError) as error:
                raise SetupError(f"{path}, line {number} is no sample: {error}") from None


def append(path: Path, sample: Sample) -> None:
    with path.open("a", encoding="utf-8") as out:
        out.write(json.dumps(asdict(sample)) + "\n")


async def write_more(
    address: str,
    path: Path,
    prompts: Sequence[tuple[str, tuple[int, ...]]],
    max_new_tokens: int,
    progress: Callable[[Sample], None],
) -> None:
    """Have the coordinator at `address` answer each (text, token ids) of `prompts`; append the answers as they come.

    Most answers are written at a temperature above 0. A run that is cut short loses what was under way, nothing else.
    """
    waiting = iter(prompts)

    async def writer(client: AsyncClient) -> None:
        for text, prompt_ids in waiting:
            temperature = random.Random(text).choice(TEMPERATURES)
            sampling = SamplingParams(temperature=temperature, top_p=TOP_P, max_new_tokens=max_new_tokens)
            output = await client.complete(GenerateRequest(TokenIds(prompt_ids), sampling))
            sample = Sample(text, temperature, prompt_ids, output.token_ids)
            append(path, sample)
            progress(sample)

    async with AsyncClient(address) as client, asyncio.TaskGroup() as group:
        for _ in range(IN_FLIGHT):
            group.create_task(writer(client))
