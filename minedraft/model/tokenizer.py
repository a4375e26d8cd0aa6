"""A model folder's tokenizer, read without torch or transformers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from minedraft.errors import SetupError
from minedraft.types import TokenizerFiles

SPECIAL_NAMES: Final = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
EOS_SOURCES: Final = ("generation_config.json", "config.json")
DEFAULT_TEMPLATE: Final = "default"


def read_tokenizer(folder: Path) -> TokenizerFiles:
    """The tokenizer of a model folder: `tokenizer.json`, chat template, special tokens. Raises SetupError."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise SetupError(
            f"{folder} has no tokenizer.json: load it with transformers' AutoTokenizer and save_pretrained it there"
        )
    settings = _read_json(folder / "tokenizer_config.json")
    content = path.read_bytes()
    return TokenizerFiles(
        tokenizer_json=content,
        chat_template=_chat_template(folder, settings),
        special_tokens=_special_tokens(folder, settings),
        fingerprint=fingerprint(parse_tokenizer(content, path)),
    )


def read_eos_token_ids(folder: Path) -> tuple[int, ...]:
    """Ids that end a generation, ascending: the union of what the generation, model and tokenizer settings name."""
    ids: set[int] = set()
    for name in EOS_SOURCES:
        named = _read_json(folder / name).get("eos_token_id")
        ids.update(named if isinstance(named, list) else [] if named is None else [named])
    eos = _special_tokens(folder, _read_json(folder / "tokenizer_config.json")).get("eos_token")
    path = folder / "tokenizer.json"
    if eos and path.is_file():
        token_id = parse_tokenizer(path.read_bytes(), path).token_to_id(eos)
        ids.update([] if token_id is None else [token_id])
    return tuple(sorted(ids))


def parse_tokenizer(content: bytes, path: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`. `path` is for the SetupError."""
    try:
        return Tokenizer.from_buffer(content)
    except Exception as error:  # the package raises bare Exception and ValueError
        raise SetupError(f"{path} is not a tokenizer that the tokenizers package reads: {_one_line(error)}") from None


def fingerprint(tokenizer: Tokenizer) -> str:
    """SHA-256, in hex, over the sorted (token, id) pairs of the whole vocabulary, added tokens included.

    Two models whose fingerprints agree give every id the same text, so that one may draft for the other.
    """
    digest = hashlib.sha256()
    for token, token_id in sorted(tokenizer.get_vocab(with_added_tokens=True).items()):
        digest.update(f"{token_id}:{token}\0".encode())
    return digest.hexdigest()


def _chat_template(folder: Path, settings: Mapping[str, Any]) -> str:
    """`chat_template.jinja`, else the tokenizer settings' own; of several named ones the default. "" for none."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get(DEFAULT_TEMPLATE)
    return template if isinstance(template, str) else ""


def _special_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Name -> token, such as "bos_token" -> "<s>". A token may be written as a string or as {"content": ...}."""
    older = _read_json(folder / "special_tokens_map.json")
    tokens: dict[str, str] = {}
    for name in SPECIAL_NAMES:
        token = settings.get(name) or older.get(name)
        if isinstance(token, dict):
            token = token.get("content")
        if isinstance(token, str):
            tokens[name] = token
    return tokens


def _read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, {} when there is no file. Raises SetupError when it is not an object."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SetupError(f"{path} is not JSON: {_one_line(error)}") from None
    if not isinstance(content, dict):
        raise SetupError(f"{path} does not hold a JSON object")
    return content


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
