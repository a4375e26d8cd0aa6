"""Fitting the student to the target's laws. Resumable; the same corpus, settings and seed give the same batches."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  # the name that everybody uses

from minedraft.distill.student import Student
from minedraft.distill.teacher import Lesson

WARM_UP: Final = 0.02  # of all tokens
DECAY: Final = 0.6  # share of the training over which the rates fall to nothing
SHARPNESS: Final = (1.0, 1.1, 1.2, 1.35, 1.5, 1.7, 2.0)
SHARPENED_AT: Final = 0.8  # the temperature that a draft model is sharpened for
LIKELIHOOD: Final = 0.5  # weight of the cross entropy beside the overlap, which says nothing of drafts that are missed
LAST: Final = 0.02  # of the rate, at the end
SORTED: Final = 512  # lessons sorted by length at a time, so that batches have little padding


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    """How long and how fast. Tokens are completion tokens, each counted as often as it is seen."""

    tokens: int
    batch_tokens: int = 4096  # prompt and padding included
    matrix_rate: float = 0.01  # Muon, for the layers' matrices
    other_rate: float = 5e-4  # Adam, for the output layer and the norms
    weight_decay: float = 0.01
    target_temperature: float = 1.0  # of the law that is learned: below 1 the student is surer than the target
    overlap_from: float = 0.7  # share of the training after which the overlap itself is learned; 1: never
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Scores:
    """How the student does on lessons that it does not learn from."""

    loss: float  # cross entropy against the target's law, nats a token
    agreement: float  # share of tokens where both have the same likeliest token
    overlap: float  # sum of min(p, q): the expected acceptance at temperature 1


class Training:
    """One run. Its state is files in `folder` after every `save`."""

    def __init__(
        self, student: Student, head_weight: Tensor, taught: Sequence[Lesson], kept: Sequence[Lesson],
        options: TrainingOptions, folder: Path,
    ) -> None:  # fmt: skip
        self.student = student
        self.seen = 0
        self.history: list[dict[str, float]] = []
        self._head_weight = head_weight  # [V, H], the target's
        self._known_rows = head_weight[student.token_ids].bfloat16()
        self._taught, self._kept = list(taught), list(kept)
        self._options = options
        self._folder = folder
        self._step = 0
        self._best: list[Tensor] | None = None
        trained = student.trained().values()
        matrices = [weight for weight in trained if weight.dim() == 2 and weight is not student.head.weight]
        others = [weight for weight in trained if weight.dim() != 2 or weight is student.head.weight]
        # Muon orthogonalises the updates of matrices (Jordan 2024, https://kellerjordan.github.io/posts/muon/).
        self._optimizers: tuple[torch.optim.Optimizer, ...] = (
            torch.optim.Muon(matrices, lr=options.matrix_rate, weight_decay=options.weight_decay),
            torch.optim.Adam(others, lr=options.other_rate, betas=(0.9, 0.95)),
        )
        self._rates = (options.matrix_rate, options.other_rate)
        self._batches = self._endless()

    def run(self, until: int, progress: Callable[[int, float], None]) -> None:
        """Train until that many tokens were seen. `progress` takes the tokens and the loss of each batch."""
        self.student.train()
        while self.seen < min(until, self._options.tokens):
            batch = next(self._batches)
            rate = schedule(self.seen / self._options.tokens)
            for optimizer, full in zip(self._optimizers, self._rates, strict=True):
                optimizer.param_groups[0]["lr"] = rate * full
            loss = self._learn(batch)
            for optimizer in self._optimizers:
                optimizer.step()
                optimizer.zero_grad()
            self._step += 1
            count = sum(len(lesson.hidden) for lesson in batch)
            self.seen += count
            progress(count, loss)

    @torch.no_grad()
    def score(self) -> Scores:
        """On the lessons kept apart; also added to `history`."""
        self.student.eval()
        total, loss, agreement, overlap = 0, 0.0, 0.0, 0.0
        if self._best is None:
            self._best = [(lesson.hidden @ self._head_weight.T.bfloat16()).argmax(dim=1) for lesson in self._kept]
        best = dict(zip(map(id, self._kept), self._best, strict=True))
        for batch in batches(self._kept, self._options.batch_tokens, random.Random(0)):
            logits = F.linear(self._hidden(batch), self.student.head.weight.bfloat16()).float()  # [N, draft vocabulary]
            p = self._law(batch, self._options.target_temperature)
            log_q = logits.log_softmax(dim=1)
            loss -= float((p * log_q).sum())
            own = self.student.token_ids[logits.argmax(dim=1)]
            agreement += float((own == torch.cat([best[id(lesson)] for lesson in batch])).sum())
            overlap += float(torch.minimum(p, log_q.exp()).sum())
            total += len(p)
        scores = Scores(loss / total, agreement / total, overlap / total)
        self.history.append({"seen": self.seen} | asdict(scores))
        return scores

    @torch.no_grad()
    def sharpness(self) -> float:
        """The factor of SHARPNESS on the logits with the most overlap at SHARPENED_AT, on the lessons kept apart.

        A student that does not know which of two tokens the target is sure of learns to give each its half, and half of
        its drafts are kept; betting on one keeps as many of them or more.
        """
        self.student.eval()
        overlap = dict.fromkeys(SHARPNESS, 0.0)
        for batch in batches(self._kept, self._options.batch_tokens, random.Random(0)):
            logits = F.linear(self._hidden(batch), self.student.head.weight.bfloat16()).float() / SHARPENED_AT
            hidden = torch.cat([lesson.hidden for lesson in batch]).to(self._known_rows.device)
            p = (F.linear(hidden, self._known_rows).float() / SHARPENED_AT).softmax(dim=1)  # [N, draft vocabulary]
            for factor in SHARPNESS:
                overlap[factor] += float(torch.minimum(p, (factor * logits).softmax(dim=1)).sum())
        return max(overlap, key=overlap.__getitem__)

    def save(self) -> None:
        """Write weights, optimizer states and progress. No pickle."""
        tensors: dict[str, Tensor] = {f"student.{name}": value for name, value in self.student.trained().items()}
        for number, optimizer in enumerate(self._optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer{number}.{index}.{name}": torch.as_tensor(v) for name, v in state.items()}
        progress = {"seen": self.seen, "step": self._step, "options": asdict(self._options), "history": self.history}
        self._folder.mkdir(parents=True, exist_ok=True)
        weights, notes = self._folder / "checkpoint.safetensors", self._folder / "progress.json"
        save_file({name: value.detach().contiguous() for name, value in tensors.items()}, f"{weights}.part")
        Path(f"{notes}.part").write_text(json.dumps(progress, indent=1), encoding="utf-8")
        for path in (weights, notes):
            os.replace(f"{path}.part", path)

    def resume(self) -> bool:
        """Go on where a run with the same options was saved; False when there is none."""
        file = self._folder / "progress.json"
        if not file.is_file():
            return False
        progress: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if progress["options"] != asdict(self._options):
            return False
        tensors = load_file(self._folder / "checkpoint.safetensors")
        prefix = "student."
        self.student.load_state_dict(
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)},
            strict=False,
        )
        for number, optimizer in enumerate(self._optimizers):
            states: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                owner, _, rest = name.partition(".")
                if owner == f"optimizer{number}":
                    index, _, key = rest.partition(".")
                    states.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
        self.seen, self.history = int(progress["seen"]), list(progress["history"])
        for _ in range(int(progress["step"])):
            next(self._batches)
        self._step = int(progress["step"])
        return True

    def _learn(self, batch: Sequence[Lesson]) -> float:
        """Add the gradients of one batch; its loss. The gradient of the logits is written out: the output layer is most
        of the work, and automatic differentiation would hold four copies of it."""
        hidden = self._hidden(batch)  # [N, H]
        states = hidden.detach()
        overlap = self.seen >= self._options.overlap_from * self._options.tokens
        with torch.no_grad():
            weight = self.student.head.weight.bfloat16()
            logits = F.linear(states, weight).float()  # [N, draft vocabulary]
            p = self._law(batch, SHARPENED_AT if overlap else self._options.target_temperature)
            loss, slopes = overlap_slopes(logits, p, SHARPENED_AT) if overlap else likelihood_slopes(logits, p)
            slope = slopes.bfloat16()
            self.student.head.weight.grad = (slope.T @ states).float()
            upstream = slope @ weight
        hidden.backward(upstream)  # type: ignore[no-untyped-call]
        return loss

    def _hidden(self, batch: Sequence[Lesson]) -> Tensor:
        """The student's last hidden states before each completion token. [N, H] bfloat16"""
        rows = [lesson.sample.token_ids[:-1] for lesson in batch]
        longest = max(map(len, rows))
        padded = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])
        places = torch.cat(
            [
                torch.arange(len(lesson.sample.prompt_ids) - 1, len(row)) + index * longest
                for index, (lesson, row) in enumerate(zip(batch, rows, strict=True))
            ]
        )
        with torch.autocast(self.student.head.weight.device.type, torch.bfloat16):
            states = self.student.hidden(padded.to(self.student.head.weight.device))
        return states.flatten(0, 1)[places.to(states.device)].bfloat16()

    def _law(self, batch: Sequence[Lesson], temperature: float) -> Tensor:
        """The target's law over the draft vocabulary at a temperature. [N, draft vocabulary] float32"""
        hidden = torch.cat([lesson.hidden for lesson in batch]).to(self._known_rows.device)
        return F.linear(hidden, self._known_rows).float().div_(temperature).softmax(dim=1)

    def _endless(self) -> Iterator[list[Lesson]]:
        dice = random.Random(self._options.seed)
        while True:
            yield from batches(self._taught, self._options.batch_tokens, dice)


def likelihood_slopes(logits: Tensor, p: Tensor) -> tuple[float, Tensor]:
    """The mean cross entropy of softmax(logits) against p, and its gradient by the logits. [N, v] float32 each."""
    log_q = logits.log_softmax(dim=1)
    loss = -float((p * log_q).sum()) / len(p)
    return loss, log_q.exp_().sub_(p).div_(len(p))


def overlap_slopes(logits: Tensor, p: Tensor, temperature: float) -> tuple[float, Tensor]:
    """The mean of -sum(min(p, q)) + LIKELIHOOD * cross entropy for q = softmax(logits / temperature), and its gradient
    by the logits. [N, v] float32 each.

    The overlap of two laws is the chance that a draft from q is kept (Leviathan et al. 2023, arXiv 2211.17192,
    corollary 3.6), so this learns what the drafter is for. Where q < p more of q is more overlap.
    """
    log_q = (logits / temperature).log_softmax(dim=1)
    q = log_q.exp()
    short = torch.where(q < p, q, 0.0)
    loss = -float(torch.minimum(p, q).sum()) - LIKELIHOOD * float((p * log_q).sum())
    slopes = q * short.sum(dim=1, keepdim=True) - short + LIKELIHOOD * (q - p)
    return loss / len(p), slopes.div_(len(p) * temperature)


def batches(lessons: Sequence[Lesson], batch_tokens: int, dice: random.Random) -> Iterator[list[Lesson]]:
    """Every lesson once, in batches of alike lengths and at most `batch_tokens` tokens with padding, or one lesson."""
    shuffled = list(lessons)
    dice.shuffle(shuffled)
    found: list[list[Lesson]] = []
    for start in range(0, len(shuffled), SORTED):
        batch: list[Lesson] = []
        for lesson in sorted(shuffled[start : start + SORTED], key=lambda lesson: len(lesson.sample.token_ids)):
            if batch and (len(batch) + 1) * len(lesson.sample.token_ids) > batch_tokens:
                found.append(batch)
                batch = []
            batch.append(lesson)
        found.append(batch)
    dice.shuffle(found)
    yield from found


def schedule(done: float) -> float:
    """The share of the full rate after `done` of the training: up, flat, down in a straight line."""
    if done < WARM_UP:
        return max(done, 1e-3) / WARM_UP
    return min(1.0, max(LAST, (1 - done) / DECAY))


def parameters(module: nn.Module) -> int:
    """Trained weights."""
    return sum(weight.numel() for weight in module.parameters() if weight.requires_grad)
