"""`minedraft demo`: the three services answer one prompt with speculation and without, and say what happened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Final

import typer
from rich.console import Console
from rich.table import Table

from minedraft.cli import models
from minedraft.cli.answer import Answer, read_answer
from minedraft.cli.bench.load import Sample
from minedraft.cli.bench.report import Fields, activity, speculation
from minedraft.cli.demo_model import DEMO
from minedraft.cli.display import LogLines, status, write_text
from minedraft.cli.options import prompt_of
from minedraft.cli.stack import Stack, StackOptions, threads_by_default
from minedraft.cli.stack_options import (
    MODELS,
    Draft,
    DraftTokens,
    ReadySeconds,
    Target,
    ThreadsDrafter,
    ThreadsVerifier,
)
from minedraft.cli.up import describe_choice, describe_drafter
from minedraft.client import Client
from minedraft.config import AUTO
from minedraft.generation import GenerateRequest, ServerInfo, SpeculationStats
from minedraft.native import binding
from minedraft.types import SamplingParams

REPEATING: Final = (
    "Summarise this text in three sentences:\n\n"
    "Speculative decoding makes large language models faster. A small draft model proposes several tokens, and the "
    "large target model checks all of them in one pass. Tokens that the target model agrees with are kept, and the "
    "first one that it does not agree with is replaced. The output is the same as without the draft model, because the "
    "target model decides about every token."
)
OPEN: Final = "What is the capital of France, and what is it known for?"
# A draft model is better at what is new, prompt lookup at what is repeated: one prompt would tell half of the story.
EXAMPLES: Final = (
    ("A prompt whose answer repeats much of it:", REPEATING),
    ("A prompt whose answer is all new:", OPEN),
)
DIFFERENT: Final = (
    "The two answers differ: this number type rounds otherwise in batches of other shapes. "
    "With --dtype float32 they agree."
)
UNSUITED: Final = (
    "Its drafts were too seldom kept to pay. `minedraft up` chooses K by measurement, and K=0 where none pays."
)
LANES_HINT: Final = (
    "A single request keeps one lane busy. To see what two lanes do where drafting takes time, try\n"
    "  minedraft bench --simulate drafter=5ms,verifier=25ms,accept=0.8 --lanes 2     and the same with --lanes 1"
)
EXACT: Final = "float32"  # ties are rare enough that batches of other shapes do not change an answer
WARM_UP_TOKENS: Final = 8


@dataclass(frozen=True, slots=True)
class Run:
    """One answer, and how busy the services were meanwhile."""

    answer: Answer
    busy: Fields

    @property
    def stats(self) -> SpeculationStats:
        return self.answer.output.speculation or SpeculationStats()


def demo(
    prompt: Annotated[
        str | None,
        typer.Argument(help="what to ask; default: a prompt whose answer repeats it, and one whose answer is new"),
    ] = None,
    target: Target = "demo",
    draft: Draft = "auto",
    draft_tokens: DraftTokens = "4",
    max_new_tokens: Annotated[int, typer.Option(min=1, help="tokens an answer at most")] = 128,
    dtype: Annotated[
        str,
        typer.Option(
            "--dtype",
            help="the target's; auto: bfloat16 where this package's kernels compute the demo's target, else float32",
            rich_help_panel=MODELS,
        ),
    ] = AUTO,
    threads_verifier: ThreadsVerifier = 0,
    threads_drafter: ThreadsDrafter = 0,
    ready_seconds: ReadySeconds = 300.0,
    verbose: Annotated[bool, typer.Option("--verbose", help="show the services' logs on stderr")] = False,
) -> None:
    """Fetch the demo model, start the three services, stream an answer, and compare it with plain decoding.

    Needs no terminal and no GPU; nothing is left running.

    Example: minedraft demo "List five rivers and then the same five in reverse."
    """
    console = Console(highlight=False, soft_wrap=True)
    models.ensure(target, draft)
    native = dtype == AUTO and target == DEMO and _has_kernels()
    options = StackOptions(
        target=target, draft=draft, draft_tokens=draft_tokens, threads_verifier=threads_verifier,
        threads_drafter=threads_drafter, ready_seconds=ready_seconds, log_level="info" if verbose else "warning",
        dtype="bfloat16" if native else EXACT if dtype == AUTO else dtype,
        verifier_flags=("--kernels", "native") if native else (),
    )  # fmt: skip
    stack = Stack(options, log=LogLines()) if verbose else Stack(options)
    try:
        with status("starting the services") as waiting:
            info = stack.start(waiting)
        _introduce(console, stack, info, threads_verifier or threads_by_default(options))
        with Client(stack.coordinator) as client:
            _run(client, OPEN, WARM_UP_TOKENS, None)
            for title, text in EXAMPLES if prompt is None else (("The prompt:", prompt),):
                console.print(f"\n{title}", style="bold")
                console.print(text, markup=False)
                _compare(console, client, text, max_new_tokens, draft_tokens)
        console.print(f"\n{LANES_HINT}")
    finally:
        stack.stop()


def _has_kernels() -> bool:
    """Whether the demo's target would be computed by this package's CPU kernels, which round alike in all batches."""
    if binding.find()[0] is None:
        return False
    import torch  # it takes a second, which other commands need not wait

    return not torch.cuda.is_available()


def _introduce(console: Console, stack: Stack, info: ServerInfo, threads: int) -> None:
    target = info.target
    console.print("\nThree processes are serving:")
    if target:
        console.print(f"  verifier     {stack.verifier:<22} {target.model_id}, {target.dtype}, {threads} CPU thread(s)")
    if stack.drafter:
        console.print(f"  drafter      {stack.drafter:<22} {describe_drafter(info.drafter)}")
    console.print(f"  coordinator  {stack.coordinator:<22} {describe_choice(info)}")


def _compare(console: Console, client: Client, prompt: str, max_new_tokens: int, draft_tokens: str) -> None:
    """Stream the answer, then measure the same prompt without drafts."""
    _run(client, prompt, 1, 0)  # now the verifier knows the prompt: the second run alone would have that saved
    console.print("\nThe answer, greedy, as it is committed:", style="bold")
    drafted = _run(client, prompt, max_new_tokens, None, write_text)
    write_text("\n")
    with status("the same prompt without drafts"):
        plain = _run(client, prompt, max_new_tokens, 0)
    console.print()
    console.print(_comparison(drafted, plain, draft_tokens))
    console.print(_conclusion(drafted, plain))


def _run(
    client: Client,
    prompt: str,
    max_new_tokens: int,
    max_draft_tokens: int | None,
    show: Callable[[str], None] = lambda _: None,
) -> Run:
    sampling = SamplingParams(temperature=0.0, max_new_tokens=max_new_tokens)
    request = GenerateRequest(prompt_of(prompt, raw=False), sampling, max_draft_tokens=max_draft_tokens)
    before = Sample(0.0, client.server_info())
    answer = read_answer(client.generate(request), show)
    return Run(answer, activity(before, Sample(answer.seconds, client.server_info())))


def _comparison(drafted: Run, plain: Run, draft_tokens: str) -> Table:
    made = Table(title="What happened", title_justify="left")
    made.add_column("")
    made.add_column(f"K={draft_tokens}", justify="right")
    made.add_column("K=0, plain decoding", justify="right")
    runs = (drafted, plain)
    made.add_row("tokens", *(str(len(run.answer.output.token_ids)) for run in runs))
    made.add_row("seconds", *(f"{run.answer.seconds:.2f}" for run in runs))
    made.add_row("tokens a second", *(f"{run.answer.tokens_per_second:.1f}" for run in runs))
    made.add_row("time to first token", *(f"{1000 * run.answer.first_token_seconds:.0f} ms" for run in runs))
    made.add_row("verifications", *(str(run.stats.rounds) for run in runs))
    made.add_row("acceptance length", *(f"{run.stats.acceptance_length:.2f}" for run in runs))
    made.add_row("drafts kept, by position", *(_by_position(run.stats) for run in runs))
    for words, name in (("verifier busy", "verifier_busy"), ("drafter busy", "drafter_busy")):
        made.add_row(words, *(_percent(run.busy[name]) for run in runs))
    return made


def _conclusion(drafted: Run, plain: Run) -> str:
    same = drafted.answer.output.token_ids == plain.answer.output.token_ids
    ratio = drafted.answer.tokens_per_second / plain.answer.tokens_per_second
    speed = (
        f"Speculation made this answer {ratio:.2f} times as fast as plain decoding, on this machine and this prompt."
    )
    if ratio < 1.0:
        speed += f"\n{UNSUITED}"
    if same:
        return f"{speed}\nBoth answers are the same, token for token."
    return f"{speed}\n{DIFFERENT}"


def _by_position(stats: SpeculationStats) -> str:
    shares = speculation([stats])["acceptance_by_position"]
    return " ".join(_percent(share) for share in shares) or "-"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f}%"
