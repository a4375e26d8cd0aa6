"""`minedraft generate`: one prompt, one answer."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from minedraft.cli.answer import read_answer
from minedraft.cli.display import write_json, write_text
from minedraft.cli.options import (
    Address,
    AsJson,
    MaxDraftTokens,
    MaxNewTokens,
    MinP,
    Raw,
    Seed,
    Stop,
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
    prompt_of,
    sampling_of,
    server_address,
)
from minedraft.generation import GenerateRequest
from minedraft.types import TokenLogprobs


def generate(
    prompt: Annotated[str, typer.Argument(help="the prompt; - reads it from stdin")],
    as_json: AsJson = False,
    address: Address = None,
    token_file: TokenFile = None,
    tls_ca: TlsCa = None,
    tls_client_cert: TlsClientCert = None,
    tls_client_key: TlsClientKey = None,
    tls_server_name: TlsServerName = None,
    max_new_tokens: MaxNewTokens = 256,
    temperature: Temperature = 1.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    seed: Seed = None,
    stop: Stop = None,
    logprobs: Annotated[
        int | None, typer.Option(min=0, help="log-probability of each token and of that many alternatives")
    ] = None,
    max_draft_tokens: MaxDraftTokens = None,
    system: System = "",
    raw: Raw = False,
) -> None:
    """Answer one prompt; the text streams to the terminal.

    Example: minedraft generate "What is the capital of France?" --temperature 0
    """
    text = sys.stdin.read() if prompt == "-" else prompt
    sampling = sampling_of(
        max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed,
        stop=stop, logprobs=logprobs,
    )  # fmt: skip
    request = GenerateRequest(prompt_of(text, raw=raw, system=system), sampling, max_draft_tokens=max_draft_tokens)
    access = access_of(token_file, tls_ca, tls_client_cert, tls_client_key, tls_server_name)
    with access.client(server_address(address)) as client:
        answer = read_answer(client.generate(request), (lambda _: None) if as_json else write_text)
    if as_json:
        write_json(answer.fields())
        return
    write_text("\n")
    for entry in answer.output.logprobs:
        write_text(_line(entry))


def _line(entry: TokenLogprobs) -> str:
    others = zip(entry.top_token_ids, entry.top_logprobs, strict=True)
    return f"{entry.token_id:>8} {entry.logprob:9.4f}   " + "  ".join(f"{i}:{p:.4f}" for i, p in others) + "\n"
