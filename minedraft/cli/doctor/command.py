"""`minedraft doctor`: what works on this machine, found out by doing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from minedraft.cli.display import notes, status, write_json
from minedraft.cli.doctor.asked import asked_for, missing
from minedraft.cli.doctor.examination import examine
from minedraft.cli.doctor.finding import Scope
from minedraft.cli.doctor.report import report
from minedraft.cli.doctor.table import table
from minedraft.cli.options import AsJson, TlsCa, TlsClientCert, TlsClientKey, TlsServerName, TokenFile
from minedraft.config import CliSettings, EngineSettings

CONFIGURATION = "Configuration to examine"
USUAL_SHM_DIR: Path = EngineSettings.model_fields["shm_dir"].default


def doctor(
    target: Annotated[
        str, typer.Option(metavar="M", help="target model: is it there?", rich_help_panel=CONFIGURATION)
    ] = "",
    draft: Annotated[
        str,
        typer.Option(
            metavar="M", help="draft model: is it there, and of one tokenizer?", rich_help_panel=CONFIGURATION
        ),
    ] = "",
    device: Annotated[
        str,
        typer.Option(help="auto, cpu, cuda or cuda:N; another than auto must be there", rich_help_panel=CONFIGURATION),
    ] = "auto",
    channel: Annotated[
        str,
        typer.Option(
            help="auto: one must work; inline, shm, gloo, cuda_ipc or nccl: this one must",
            rich_help_panel=CONFIGURATION,
        ),
    ] = "auto",
    attention: Annotated[
        str, typer.Option(help="auto, sdpa or flash_attn, which then must work", rich_help_panel=CONFIGURATION)
    ] = "auto",
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="a server to ask how it is", rich_help_panel=CONFIGURATION)
    ] = "",
    token_file: TokenFile = None,
    tls_ca: TlsCa = None,
    tls_client_cert: TlsClientCert = None,
    tls_client_key: TlsClientKey = None,
    tls_server_name: TlsServerName = None,
    shm_dir: Annotated[
        Path, typer.Option(metavar="DIR", help="folder for shared memory", rich_help_panel=CONFIGURATION)
    ] = USUAL_SHM_DIR,
    check_seconds: Annotated[float, typer.Option(min=1, help="a check that takes longer is given up")] = 120.0,
    as_json: AsJson = False,
) -> None:
    """Try what the services need, and say how to mend what does not work.

    Every check is run: a channel is opened between two processes and measured, attention is compared with the stock
    model. Exit code 0 when all that the configuration asks for works, else 1. Nothing is changed or fetched.

    Example: minedraft doctor --device cuda --channel cuda_ipc --attention flash_attn
    """
    how = CliSettings().model_copy(
        update={
            name: value
            for name, value in (
                ("token_file", token_file),
                ("tls_ca", tls_ca),
                ("tls_client_cert", tls_client_cert),
                ("tls_client_key", tls_client_key),
                ("tls_server_name", tls_server_name),
            )
            if value is not None
        }
    )
    scope = Scope(
        target, draft, device, channel, attention, address, str(shm_dir), check_seconds,
        how.token_file, how.tls_ca, how.tls_client_cert, how.tls_client_key, how.tls_server_name,
    )  # fmt: skip
    asked = asked_for(scope)
    with status("examining") as progress:
        findings = list(examine(scope, progress))
    if as_json:
        write_json(report(findings, asked))
    else:
        Console().print(table(findings, asked))
    if lacking := missing(asked, findings):
        notes.print(f"asked for and not working: {', '.join(lacking)}", style="red")
        raise typer.Exit(1)
