"""What `--simulate` says: models that sleep instead of computing. Torch-free."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from minedraft.errors import SetupError

EXAMPLE: Final = "drafter=5ms,verifier=25ms,accept=0.8"
SECONDS: Final = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
LEAST_VOCAB: Final = 256  # the built-in tokenizer has a token for each byte
LONGEST_PASS: Final = 60.0  # seconds


@dataclass(frozen=True, slots=True)
class SimulationSpec:
    """A pair of simulated models. Durations are seconds a forward pass, whatever is fed."""

    drafter: float
    verifier: float
    accept: float  # probability that a draft is the target's own token, independent at each position
    vocab: int = 256
    max_len: int = 32768

    @classmethod
    def parse(cls, text: str) -> SimulationSpec:
        """Read `drafter=5ms,verifier=25ms,accept=0.8[,vocab=256][,max_len=32768]`; us, ms or s. Raises SetupError."""
        values: dict[str, float | int] = {}
        for part in text.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if name not in READERS or not equals:
                raise SetupError(
                    f"--simulate: {part.strip()!r} is not one of {', '.join(READERS)} with a value, as in {EXAMPLE}"
                )
            if name in values:
                raise SetupError(f"--simulate: {name} is given twice")
            values[name] = READERS[name](name, value)
        missing = [name for name in ("drafter", "verifier", "accept") if name not in values]
        if missing:
            raise SetupError(f"--simulate: {', '.join(missing)} must be given, as in {EXAMPLE}")
        return cls(**values)  # type: ignore[arg-type]  # each reader gives its field's type


def _seconds(name: str, text: str) -> float:
    matched = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(us|ms|s)", text)
    if not matched:
        raise SetupError(f"--simulate: {name}={text} is not a time such as 5ms, 250us or 0.1s")
    seconds = float(matched[1]) * SECONDS[matched[2]]
    if seconds > LONGEST_PASS:
        raise SetupError(f"--simulate: {name}={text} is longer than {LONGEST_PASS:.0f}s")
    return seconds


def _probability(name: str, text: str) -> float:
    try:
        probability = float(text)
    except ValueError:
        probability = math.nan
    if not 0.0 <= probability <= 1.0:
        raise SetupError(f"--simulate: {name}={text} is not a number between 0 and 1")
    return probability


def _at_least(least: int) -> Callable[[str, str], int]:
    def read(name: str, text: str) -> int:
        if not (text.isascii() and text.isdigit() and int(text) >= least):
            raise SetupError(f"--simulate: {name}={text} is not a whole number of at least {least}")
        return int(text)

    return read


READERS: Final[dict[str, Callable[[str, str], float | int]]] = {
    "drafter": _seconds,
    "verifier": _seconds,
    "accept": _probability,
    "vocab": _at_least(LEAST_VOCAB),
    "max_len": _at_least(1),
}
