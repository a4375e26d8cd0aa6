"""What a rank of a tensor-parallel model is told when it is started."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

import torch

from minedraft.errors import SetupError
from minedraft.model.loader import AUTO, choose_device

MODULE: Final = "minedraft.engine.parallel_worker"
LOCAL_RANK: Final = "LOCAL_RANK"  # the variable that transformers takes a rank's GPU from; rank 0 goes without
HERE: Final = "here"  # lines on a rank's stdout: it is about to join the group,
READY: Final = "ready"  # it has loaded its share,
FAILED: Final = "failed: "  # and why it ends


@dataclass(frozen=True, slots=True)
class Station:
    """One rank's place in the group, and what it loads there."""

    rank: int
    ranks: int
    port: int  # of the store on this machine that the ranks meet at
    model: str
    dtype: str
    device: str  # "cpu", or "cuda:I" of this rank
    max_len: int
    threads: int
    timeout_seconds: float
    log_level: str
    log_format: Literal["console", "json"]

    def to_argument(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_argument(cls, argument: str) -> Station:
        """Reads what `to_argument` wrote. Raises SetupError."""
        try:
            return cls(**json.loads(argument))
        except (ValueError, TypeError) as error:
            raise SetupError(f"a rank was started with arguments that it cannot read: {error}") from None


def choose_devices(name: str, ranks: int) -> list[str]:
    """A device for each rank. Raises SetupError when there are not enough.

    `transformers` places the shares of a split model on the accelerators of a machine that has any, and nowhere else.
    """
    device = choose_device(name)
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device.type == "cpu":
        if found:
            raise SetupError(
                f"--tensor-parallel {ranks} with --device cpu: on a machine with GPUs the model is split over these; "
                "hide them with the variable CUDA_VISIBLE_DEVICES= (empty), or give --device auto"
            )
        return ["cpu"] * ranks
    index: Any = device.index  # None when the name has none, whatever its annotation says
    if index is not None:
        raise SetupError(
            f"--tensor-parallel {ranks} takes the GPUs 0 to {ranks - 1}: give --device {AUTO}, and choose GPUs with "
            "the variable CUDA_VISIBLE_DEVICES"
        )
    if found < ranks:
        raise SetupError(
            f"--tensor-parallel {ranks} needs as many GPUs, and torch finds {found}: give --tensor-parallel {found}"
        )
    return [f"cuda:{rank}" for rank in range(ranks)]
