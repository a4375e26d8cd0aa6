"""Options of the commands that start services: `up`, `bench` and `demo`."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Annotated

import typer

from minedraft.config import AUTO
from minedraft.errors import SetupError

MODELS = "Models and devices"
LANES = "Lanes"
ONE_SERVICE = "Flags for one service alone"
PROTECTION = "Who may call the coordinator"

Target = Annotated[
    str,
    typer.Option(metavar="M", help="target model: a folder, a .gguf file, or `demo`", rich_help_panel=MODELS),
]
Draft = Annotated[
    str,
    typer.Option(
        metavar="M",
        help="draft model: the same, `ngram` (prompt lookup), `none`, or `auto`: demo for demo, ngram for others",
        rich_help_panel=MODELS,
    ),
]
Simulate = Annotated[
    str,
    typer.Option(
        metavar="SPEC",
        help="timed sleeps in place of forward passes, e.g. drafter=5ms,verifier=25ms,accept=0.8",
        rich_help_panel=MODELS,
    ),
]
DType = Annotated[
    str,
    typer.Option("--dtype", help="the target's: auto, float32, bfloat16, float16 or float64", rich_help_panel=MODELS),
]
DraftDType = Annotated[
    str,
    typer.Option(
        "--draft-dtype",
        help="the draft model's; auto on a CPU: 8-bit weights. The output does not depend on it",
        rich_help_panel=MODELS,
    ),
]
Device = Annotated[str, typer.Option(help="auto, or a torch device such as cuda:0", rich_help_panel=MODELS)]
DraftLaw = Annotated[
    str,
    typer.Option(help="law of drafts of sampled requests: point_mass, top_m or dense", rich_help_panel=MODELS),
]
Channel = Annotated[
    str,
    typer.Option(
        help="way of dense laws to the verifier: inline, shm, gloo, cuda_ipc, nccl, or auto: the best that works",
        rich_help_panel=MODELS,
    ),
]
MaxLen = Annotated[int, typer.Option(min=0, help="longest sequence; 0: the model's own limit", rich_help_panel=MODELS)]
SelfCheck = Annotated[bool, typer.Option(help="compare with the stock models at start-up", rich_help_panel=MODELS)]
ThreadsVerifier = Annotated[
    int,
    typer.Option(
        min=0, help="CPU threads of the verifier; 0: all, or half if lanes share them", rich_help_panel=MODELS
    ),
]
ThreadsDrafter = Annotated[
    int,
    typer.Option(min=0, help="CPU threads of the drafter; 0: all, or half if lanes share them", rich_help_panel=MODELS),
]


def auto_or(least: int, most: int) -> Callable[[str], str]:
    """Checks an option that takes `auto` or a whole number in a range."""

    def check(value: str) -> str:
        if value != AUTO and not (value.isascii() and value.isdigit() and least <= int(value) <= most):
            raise typer.BadParameter(f"{value!r} is neither auto nor a number from {least} to {most}")
        return value

    return check


Lanes = Annotated[
    str,
    typer.Option(
        metavar="auto|N",
        callback=auto_or(1, 64),
        help="lanes; 1 is standard speculative decoding; auto: as many as serve most, by measurement",
        rich_help_panel=LANES,
    ),
]
LaneSize = Annotated[
    int,
    typer.Option(
        min=1, max=1024, help="requests in a lane at most; with --lanes auto twice as many run", rich_help_panel=LANES
    ),
]
DraftTokens = Annotated[
    str,
    typer.Option(
        metavar="auto|K",
        callback=auto_or(0, 64),
        help="K, drafts a round at most; 0 is plain decoding; auto: what serves most, by measurement",
        rich_help_panel=LANES,
    ),
]
VerifierFlags = Annotated[
    str, typer.Option(metavar="FLAGS", help="e.g. '--kv-cache-mib 512'", rich_help_panel=ONE_SERVICE)
]
DrafterFlags = Annotated[str, typer.Option(metavar="FLAGS", help="e.g. '--top-m 64'", rich_help_panel=ONE_SERVICE)]
CoordinatorFlags = Annotated[
    str, typer.Option(metavar="FLAGS", help="e.g. '--queue-size 1000'", rich_help_panel=ONE_SERVICE)
]
Http = Annotated[
    str,
    typer.Option(
        metavar="[HOST:PORT]", help="serve OpenAI's HTTP API too, by default at 127.0.0.1:8000; needs the extra `http`"
    ),
]
HttpFlags = Annotated[
    str, typer.Option(metavar="FLAGS", help="e.g. '--api-key-file keys.txt'", rich_help_panel=ONE_SERVICE)
]
ReadySeconds = Annotated[float, typer.Option(min=1, help="give up when nothing serves after this many seconds")]
ServerTokenFile = Annotated[
    str,
    typer.Option(
        "--token-file", metavar="FILE", help="clients must send a token of this file", rich_help_panel=PROTECTION
    ),
]
ServerCert = Annotated[
    str,
    typer.Option(
        "--tls-cert", metavar="FILE", help="the coordinator's certificate (PEM): TLS", rich_help_panel=PROTECTION
    ),
]
ServerKey = Annotated[
    str,
    typer.Option("--tls-key", metavar="FILE", help="its private key (PEM)", rich_help_panel=PROTECTION),
]
ServerClientCa = Annotated[
    str,
    typer.Option(
        "--tls-client-ca",
        metavar="FILE",
        help="clients must show a certificate of these authorities (PEM)",
        rich_help_panel=PROTECTION,
    ),
]
OwnCa = Annotated[
    str,
    typer.Option(
        "--tls-ca",
        metavar="FILE",
        help="authorities that this command believes the coordinator by (PEM)",
        rich_help_panel=PROTECTION,
    ),
]
OwnCert = Annotated[
    str,
    typer.Option(
        "--tls-client-cert",
        metavar="FILE",
        help="certificate that this command shows to the coordinator (PEM)",
        rich_help_panel=PROTECTION,
    ),
]
OwnKey = Annotated[
    str,
    typer.Option("--tls-client-key", metavar="FILE", help="its private key (PEM)", rich_help_panel=PROTECTION),
]
OwnServerName = Annotated[
    str,
    typer.Option(
        "--tls-server-name",
        metavar="NAME",
        help="name in the coordinator's certificate; default: the host of --listen",
        rich_help_panel=PROTECTION,
    ),
]


def split(option: str, flags: str) -> tuple[str, ...]:
    """The flags in one string as a shell would split them. Raises SetupError for quotes that do not end."""
    try:
        return tuple(shlex.split(flags))
    except ValueError as error:
        raise SetupError(f"{option}: {error} in {flags!r}") from error
