"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from minedraft.config import CliSettings
from minedraft.generation import Chat, ChatMessage, Prompt, Text
from minedraft.types import SamplingParams

CONNECTION = "Connection"
SAMPLING = "Sampling"

Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="the server; default: MINEDRAFT_ADDRESS or 127.0.0.1:50050",
        rich_help_panel=CONNECTION,
    ),
]
MaxNewTokens = Annotated[int, typer.Option(min=1, help="end after this many tokens", rich_help_panel=SAMPLING)]
Temperature = Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token", rich_help_panel=SAMPLING)]
TopP = Annotated[
    float, typer.Option(min=0.0, max=1.0, help="keep the likeliest tokens up to this mass", rich_help_panel=SAMPLING)
]
TopK = Annotated[int, typer.Option(min=0, help="keep this many tokens; 0 keeps all", rich_help_panel=SAMPLING)]
MinP = Annotated[
    float,
    typer.Option(
        min=0.0, max=1.0, help="drop tokens less likely than this share of the likeliest", rich_help_panel=SAMPLING
    ),
]
Seed = Annotated[
    int | None,
    typer.Option(
        min=0, help="same seed, same answer, whatever is drafted; default: drawn at random", rich_help_panel=SAMPLING
    ),
]
Stop = Annotated[
    list[str] | None, typer.Option(help="end where this text appears; may be repeated", rich_help_panel=SAMPLING)
]
System = Annotated[str, typer.Option(metavar="TEXT", help="a system message before the conversation")]
Raw = Annotated[bool, typer.Option("--raw", help="take the prompt as it stands, without the model's chat template")]
MaxDraftTokens = Annotated[
    int | None, typer.Option(min=0, help="drafts a round at most for this request; 0 switches speculation off")
]
AsJson = Annotated[bool, typer.Option("--json", help="print one JSON object and nothing else on stdout")]


def server_address(given: str | None) -> str:
    """The server that a command talks to."""
    return given or CliSettings().address


def prompt_of(text: str, *, raw: bool, system: str = "") -> Prompt:
    """A prompt as it stands, or as a conversation."""
    if raw:
        return Text(text)
    opening = (ChatMessage("system", system),) if system else ()
    return Chat((*opening, ChatMessage("user", text)))


def sampling_of(
    *,
    max_new_tokens: int,
    temperature: float,
    top_p: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    seed: int | None = None,
    stop: list[str] | None = None,
    ignore_eos: bool = False,
    logprobs: int | None = None,
) -> SamplingParams:
    """The options as sampling parameters. Ranges beyond the options' own are the server's to check."""
    return SamplingParams(
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        min_p=min_p,
        max_new_tokens=max_new_tokens,
        stop=tuple(stop or ()),
        ignore_eos=ignore_eos,
        seed=seed,
        logprobs=logprobs,
    )
