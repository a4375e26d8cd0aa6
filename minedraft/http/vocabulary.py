"""The text of single tokens, which log-probabilities are told with."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer

from minedraft.model.tokenizer import read_tokenizer
from minedraft.types import TokenizerFiles

PRINTABLE: Final = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
SPACE_MARK: Final = "\u2581"  # SentencePiece writes it for a space


class Vocabulary:
    """What each token id stands for. Without a tokenizer, ids name themselves."""

    def __init__(self, files: TokenizerFiles | None = None) -> None:
        self.fingerprint = files.fingerprint if files else ""
        self._tokenizer: Any = None
        if files is None:
            return
        self._tokenizer = Tokenizer.from_str(files.tokenizer_json.decode())
        decoder = json.dumps(json.loads(files.tokenizer_json).get("decoder"))
        self._byte_level = '"ByteLevel"' in decoder
        self._sentence_piece = '"ByteFallback"' in decoder or '"Metaspace"' in decoder
        added = self._tokenizer.get_added_tokens_decoder()
        self._added = {number: token.content for number, token in added.items()}
        self._silent = {number for number, token in added.items() if token.special}
        self._bytes_of = _byte_level_characters()

    @classmethod
    def read(cls, folder: Path) -> Vocabulary:
        """From the folder that holds tokenizer.json. Raises SetupError."""
        return cls(read_tokenizer(folder))

    @property
    def known(self) -> bool:
        """Whether tokens have texts."""
        return self._tokenizer is not None

    def token(self, token_id: int) -> tuple[str, bytes | None]:
        """(text, UTF-8 bytes) of a token. Bytes that are no whole characters are written "bytes:\\xf0\\x9f".

        Without a tokenizer, and for ids without a token: ("token_id:5", None).
        """
        content = self.content(token_id)
        if content is None:
            return f"token_id:{token_id}", None
        try:
            return content.decode(), content
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in content), content

    def shown(self, token_id: int) -> bytes:
        """What a token adds to an output's text: special tokens nothing, unknown ones their name."""
        if self._tokenizer is not None and token_id in self._silent:
            return b""
        name, content = self.token(token_id)
        return name.encode() if content is None else content

    def text(self, token_ids: Sequence[int]) -> str | None:
        """The text of tokens, special ones included; None without a tokenizer."""
        if self._tokenizer is None:
            return None
        return str(self._tokenizer.decode(list(token_ids), skip_special_tokens=False))

    def content(self, token_id: int) -> bytes | None:
        """The bytes that a token stands for, None where that is not known."""
        token = None if self._tokenizer is None else self._tokenizer.id_to_token(token_id)
        if token is None:
            return None
        if token_id in self._added:
            return str(self._added[token_id]).encode()
        if self._byte_level:
            return b"".join(self._bytes_of.get(sign, sign.encode()) for sign in token)
        if self._sentence_piece:
            if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
                return bytes.fromhex(token[3:5])
            return str(token).replace(SPACE_MARK, " ").encode()
        return str(self._tokenizer.decode([token_id], skip_special_tokens=False)).encode()


def _byte_level_characters() -> dict[str, bytes]:
    """The characters that stand for bytes in byte-level vocabularies: GPT-2's `bytes_to_unicode`, turned round."""
    others = [byte for byte in range(256) if byte not in PRINTABLE]
    table = {chr(byte): bytes([byte]) for byte in PRINTABLE}
    return table | {chr(256 + index): bytes([byte]) for index, byte in enumerate(others)}
