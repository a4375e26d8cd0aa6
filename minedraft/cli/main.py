"""The command `minedraft`: one file a command, collected here.

Exit codes: 0, 1 for a failed call, 2 for a wrong set-up, 130 after Ctrl-C.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import minedraft
from minedraft.cli import models
from minedraft.cli.bench.command import bench
from minedraft.cli.chat import chat
from minedraft.cli.demo import demo
from minedraft.cli.distill import distill
from minedraft.cli.doctor.command import doctor
from minedraft.cli.generate import generate
from minedraft.cli.top.command import top
from minedraft.cli.trace.command import trace
from minedraft.cli.up import UpCommand, up
from minedraft.errors import MinedraftError, SetupError

CONTEXT = {"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "MINEDRAFT"}


class Commands(TyperGroup):
    """Ends with one line on stderr and an exit code instead of a traceback, for every error of the family."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except MinedraftError as error:
            sys.stderr.write(f"minedraft: {error}\n")
            raise typer.Exit(2 if isinstance(error, SetupError) else 1) from None


app = typer.Typer(
    cls=Commands, context_settings=CONTEXT, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False
)
app.add_typer(models.app, name="models")
for command in (up, generate, chat, bench, top, trace, demo, distill, doctor):
    app.command(command.__name__, cls=UpCommand if command is up else None)(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(minedraft.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, show_envvar=False, help="print the version"),
    ] = False,
) -> None:
    """Speculative decoding as services: a drafter, a verifier, and a coordinator that alternates two lanes.

    Every flag can be given in the environment: --max-new-tokens of `generate` is MINEDRAFT_GENERATE_MAX_NEW_TOKENS.

    Example: minedraft up &  then  minedraft generate "What is the capital of France?"
    """


def main() -> None:
    """The console script."""
    app(prog_name="minedraft")


if __name__ == "__main__":
    main()
