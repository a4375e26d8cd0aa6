"""`minedraft chat`: a conversation."""

from __future__ import annotations

import contextlib
import sys
from typing import Final

from minedraft.cli.answer import read_answer
from minedraft.cli.display import notes, write_text
from minedraft.cli.options import (
    Address,
    MaxNewTokens,
    MinP,
    Seed,
    System,
    Temperature,
    TlsCa,
    TlsClientCert,
    TlsClientKey,
    TlsServerName,
    TokenFile,
    TopK,
    TopP,
    access_of,
    sampling_of,
    server_address,
)
from minedraft.client import Client
from minedraft.errors import InvalidRequest, MinedraftError
from minedraft.generation import Chat, ChatMessage, GenerateRequest
from minedraft.types import SamplingParams

RESET: Final = "/reset"
HELP: Final = "/reset forgets the conversation, Ctrl-C stops an answer, Ctrl-D leaves"


def chat(
    address: Address = None,
    token_file: TokenFile = None,
    tls_ca: TlsCa = None,
    tls_client_cert: TlsClientCert = None,
    tls_client_key: TlsClientKey = None,
    tls_server_name: TlsServerName = None,
    max_new_tokens: MaxNewTokens = 512,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    seed: Seed = None,
    system: System = "",
) -> None:
    """Talk with the model. /reset forgets the conversation, Ctrl-C stops an answer, Ctrl-D leaves.

    Example: minedraft chat --system "You answer in one sentence."
    """
    sampling = sampling_of(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed
    )
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  # line editing and history for input()
    access = access_of(token_file, tls_ca, tls_client_cert, tls_client_key, tls_server_name)
    with access.client(server_address(address)) as client:
        info = client.wait_ready(10.0)
        notes.print(f"{info.target.model_id if info.target else 'model'} at {client.address}; {HELP}", style="dim")
        Conversation(client, sampling, system).run()


class Conversation:
    """The turns so far, and the loop that adds to them. An answer that was stopped stays as far as it came."""

    def __init__(self, client: Client, sampling: SamplingParams, system: str = "") -> None:
        self._client = client
        self._sampling = sampling
        self._opening = [ChatMessage("system", system)] if system else []
        self.turns: list[ChatMessage] = list(self._opening)

    def run(self) -> None:
        """Read questions until the end of the input."""
        while (line := _read_line()) is not None:
            question = line.strip()
            if question == RESET:
                self.turns = list(self._opening)
                notes.print("forgotten", style="dim")
            elif question:
                self.ask(question)

    def ask(self, question: str) -> None:
        """Stream one answer. Errors are told and leave the conversation as it was."""
        asked = [*self.turns, ChatMessage("user", question)]
        shown: list[str] = []
        request = GenerateRequest(Chat(tuple(asked)), self._sampling)

        def show(text: str) -> None:
            shown.append(text)
            write_text(text)

        try:
            read_answer(self._client.generate(request), show)
        except KeyboardInterrupt:
            write_text(" [stopped]")
        except InvalidRequest as error:
            notes.print(f"{error}: {RESET} starts anew", style="red")
            return
        except MinedraftError as error:
            notes.print(f"{error}", style="red")
            return
        write_text("\n")
        if not shown:
            return
        self.turns = [*asked, ChatMessage("assistant", "".join(shown))]


def _read_line() -> str | None:
    """The next line; None at the end of the input. Ctrl-C drops a line that was begun."""
    while True:
        try:
            return input("> " if sys.stdin.isatty() else "")
        except KeyboardInterrupt:
            notes.print("\nCtrl-D leaves", style="dim")
        except EOFError:
            return None
