"""minedraft distill: make a draft model for a target."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from minedraft.cli.demo_model import model_path
from minedraft.cli.display import notes, write_json
from minedraft.cli.models import ensure
from minedraft.cli.options import AsJson
from minedraft.cli.stack import Stack, StackOptions
from minedraft.cli.stack_options import Target
from minedraft.errors import SetupError

DATA = "Data"
STUDENT = "Draft model"
TRAINING = "Training"


def distill(
    out: Annotated[Path, typer.Option(metavar="DIR", help="where everything goes; run again to go on there")],
    target: Target = "demo",
    samples: Annotated[int, typer.Option(min=8, help="answers to learn from", rich_help_panel=DATA)] = 4000,
    prompts: Annotated[
        Path | None, typer.Option(help="prompts to have answered, one a line; default: built in", rich_help_panel=DATA)
    ] = None,
    corpus: Annotated[
        list[Path] | None, typer.Option(help="answers that exist already (.jsonl, .jsonl.gz)", rich_help_panel=DATA)
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="tokens an answer at most", rich_help_panel=DATA)] = 256,
    layers: Annotated[
        str, typer.Option(metavar="I,J,...", help="which of the target's layers to start from", rich_help_panel=STUDENT)
    ] = "0,1,-1",
    draft_vocab_size: Annotated[
        int, typer.Option(min=16, help="frequent tokens that it can draft", rich_help_panel=STUDENT)
    ] = 8192,
    tokens: Annotated[
        int, typer.Option(min=1, help="completion tokens to see, repeats included", rich_help_panel=TRAINING)
    ] = 4_000_000,
    batch_tokens: Annotated[int, typer.Option(min=256, help="tokens in a batch", rich_help_panel=TRAINING)] = 4096,
    matrix_rate: Annotated[float, typer.Option(help="learning rate of Muon", rich_help_panel=TRAINING)] = 0.01,
    other_rate: Annotated[float, typer.Option(help="learning rate of Adam", rich_help_panel=TRAINING)] = 5e-4,
    target_temperature: Annotated[
        float,
        typer.Option(min=0.1, help="of the law that is learned; below 1: surer drafts", rich_help_panel=TRAINING),
    ] = 1.0,
    overlap_from: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1.0,
            help="share of the training after which the acceptance itself is learned",
            rich_help_panel=TRAINING,
        ),
    ] = 0.7,
    seed: Annotated[int, typer.Option(help="of prompts, batches and the samples kept apart")] = 0,
    device: Annotated[str, typer.Option(help="auto, or a torch device such as cuda:0")] = "auto",
    threads: Annotated[int, typer.Option(min=0, help="CPU threads; 0: torch's own choice")] = 0,
    trial: Annotated[
        Path | None, typer.Option(metavar="FILE", help="prompts to measure the finished pair with, one a line")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a small draft model for a target: the target writes, a few of its own layers learn to write like it.

    Four stages, each of which goes on where it was stopped: answers are written by the target, read again for its
    probabilities, learned from, and, with --trial, the pair is measured in the real services.

    Example: minedraft distill --target demo --out runs/demo --trial benchmarks/prompts/trial.jsonl
    """
    try:
        import torch

        from minedraft.distill.recipe import Recipe
        from minedraft.distill.recipe import distill as make
        from minedraft.distill.training import TrainingOptions
    except ImportError as error:
        raise SetupError(f"{error}: install what training needs with `pip install 'minedraft[engine]'`") from error
    ensure(target)
    if threads:
        torch.set_num_threads(threads)
    recipe = Recipe(
        target=Path(model_path(target)),
        folder=out,
        training=TrainingOptions(
            tokens,
            batch_tokens,
            matrix_rate,
            other_rate,
            target_temperature=target_temperature,
            overlap_from=overlap_from,
            seed=seed,
        ),
        layers=_numbers(layers),
        draft_vocab_size=draft_vocab_size,
        samples=samples,
        max_new_tokens=max_new_tokens,
        prompts=prompts,
        given=tuple(corpus or ()),
        device=device,
        trial_prompts=trial,
    )

    @contextmanager
    def serving(draft: Path | None) -> Iterator[str]:
        options = StackOptions(
            target=str(recipe.target),
            draft=str(draft) if draft else "none",
            device=device,
            draft_tokens=4,  # the trial counts what is kept of as many
            lane_size=32,
            threads_verifier=threads if draft is None else 0,
        )
        with Stack(options) as stack:
            yield stack.coordinator

    bar = Bar()
    with bar.shown:
        report = make(recipe, serving, bar)
    if as_json:
        write_json(report)
        return
    notes.print(_summary(report))
    print(recipe.drafter)


class Bar:
    """One progress bar a stage, on stderr."""

    def __init__(self) -> None:
        self.shown = Progress(
            TextColumn("{task.description:>6}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[words]}"),
            TimeRemainingColumn(),
            console=notes,
        )
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, words: str) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self.shown.add_task(stage, total=total, words=words)
        self.shown.update(self._tasks[stage], completed=done, total=total, words=words)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise SetupError(f"--layers {text}: give numbers with commas, e.g. 0,1,-1") from None


def _summary(report: dict[str, Any]) -> Table:
    made = Table(title="the draft model", title_justify="left")
    made.add_column()
    made.add_column(justify="right")
    made.add_row("trained weights", f"{report['trained_parameters']:,}")
    made.add_row("tokens of the target that it can draft", f"{report['draft_vocab_coverage']:.1%}")
    if report["history"]:
        last = report["history"][-1]
        made.add_row("same likeliest token as the target", f"{last['agreement']:.1%}")
        made.add_row("expected acceptance at temperature 1", f"{last['overlap']:.1%}")
    for trial in report["trials"]:
        heat = f"temperature {trial['temperature']:g}"
        made.add_row(f"acceptance length, {heat}", f"{trial['acceptance_length']:.2f}")
        ratio = trial["tokens_per_second"] / trial["plain_tokens_per_second"]
        made.add_row(f"tokens a second, {heat}", f"{trial['tokens_per_second']:.1f}, {ratio:.2f}x of plain")
    return made
