"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from minedraft.cli.access import Access
from minedraft.config import CliSettings
from minedraft.generation import Chat, ChatMessage, Prompt, Text
from minedraft.rpc.tokens import first_secret
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
TokenFile = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="file whose first token is sent to the server; default: MINEDRAFT_TOKEN_FILE",
        rich_help_panel=CONNECTION,
    ),
]
TlsCa = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="TLS, with servers certified by these authorities (PEM), or `system`; default: MINEDRAFT_TLS_CA",
        rich_help_panel=CONNECTION,
    ),
]
TlsClientCert = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="certificate to show to the server (PEM)", rich_help_panel=CONNECTION),
]
TlsClientKey = Annotated[
    str | None, typer.Option(metavar="FILE", help="its private key (PEM)", rich_help_panel=CONNECTION)
]
TlsServerName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="name that the server's certificate carries; default: the host of the address",
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


def access_of(
    token_file: str | None = None,
    tls_ca: str | None = None,
    tls_client_cert: str | None = None,
    tls_client_key: str | None = None,
    tls_server_name: str | None = None,
) -> Access:
    """From flags, else from the environment. Raises SetupError for a token file that cannot be used."""
    settings = CliSettings()
    path = settings.token_file if token_file is None else token_file
    return Access(
        token=first_secret(Path(path)) if path else "",
        ca=settings.tls_ca if tls_ca is None else tls_ca,
        cert=settings.tls_client_cert if tls_client_cert is None else tls_client_cert,
        key=settings.tls_client_key if tls_client_key is None else tls_client_key,
        server_name=settings.tls_server_name if tls_server_name is None else tls_server_name,
    )


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
