"""`minedraft top`: what a server does, live."""

from __future__ import annotations

import time
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live

from minedraft.cli.display import write_json
from minedraft.cli.options import (
    Address,
    AsJson,
    TlsCa,
    TlsClientCert,
    TlsClientKey,
    TlsServerName,
    TokenFile,
    access_of,
    server_address,
)
from minedraft.cli.top.sample import Look, sample
from minedraft.cli.top.view import view
from minedraft.client import Client
from minedraft.generation import TimelineStep


def top(
    seconds: Annotated[float, typer.Option(min=0.1, help="between two looks")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="two looks, one answer, and end")] = False,
    address: Address = None,
    token_file: TokenFile = None,
    tls_ca: TlsCa = None,
    tls_client_cert: TlsClientCert = None,
    tls_client_key: TlsClientKey = None,
    tls_server_name: TlsServerName = None,
    as_json: AsJson = False,
) -> None:
    """Show services, lanes, busy fractions and acceptance live; Ctrl-C ends it.

    With --json every look is one line on stdout.

    Example: minedraft top --once --json | jq .tokens_per_second
    """
    access = access_of(token_file, tls_ca, tls_client_cert, tls_client_key, tls_server_name)
    console = Console()
    with access.client(server_address(address)) as client:
        looks = Looks(client)
        if as_json or once:
            while True:
                time.sleep(seconds)
                seen = sample(*looks.next())
                if as_json:
                    write_json(seen)
                else:
                    console.print(view(seen))
                if once:
                    return
        with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
            while True:
                time.sleep(seconds)
                live.update(view(sample(*looks.next())), refresh=True)


class Looks:
    """One look after another. Mutated by `next`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._newest = client.timeline(limit=1).newest
        self._before = Look(client.server_info())

    def next(self) -> tuple[Look, Look]:
        """The look before, and one taken now."""
        steps: list[TimelineStep] = []
        while True:
            page = self._client.timeline(self._newest)
            steps += page.steps
            self._newest = page.steps[-1].number if page.steps else page.newest
            if self._newest >= page.newest:
                break
        before, self._before = self._before, Look(self._client.server_info(), tuple(steps))
        return before, self._before
