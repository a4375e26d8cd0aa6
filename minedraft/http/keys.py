"""API keys: a file of bearer tokens, one a line, read again when it changes. Keys are never logged."""

from __future__ import annotations

import hashlib
import hmac
import os
import time
from pathlib import Path
from typing import Final

import structlog
from starlette.exceptions import HTTPException

from minedraft.errors import SetupError

SCHEME: Final = "bearer "
CHECK_SECONDS: Final = 1.0  # between looks at the file
CHALLENGE: Final = {"WWW-Authenticate": "Bearer"}


class ApiKeys:
    """Who may ask. Mutated by `check` only, when the file has changed."""

    def __init__(self, path: Path) -> None:
        """Raises SetupError when there are no keys in the file."""
        self._path = path
        self._log = structlog.get_logger()
        try:
            self._version = self._file_version()
            self._digests = _read(path)
        except (OSError, UnicodeError) as error:
            raise SetupError(f"--api-key-file: {path} cannot be read: {type(error).__name__}") from None
        if not self._digests:
            raise SetupError(f"--api-key-file: {path} holds no key: write one a line")
        self._looked = time.monotonic()

    def check(self, authorization: str | None) -> None:
        """Raises HTTPException 401 for a header that carries none of the keys, equally fast whichever it is like."""
        self._refresh()
        if authorization is None:
            raise HTTPException(401, "an API key is needed: Authorization: Bearer KEY", CHALLENGE)
        scheme, key = authorization[: len(SCHEME)], authorization[len(SCHEME) :].strip()
        # Headers are latin-1, files UTF-8: starlette decoded the bytes, which are wanted back.
        given = _digest(key.encode("latin-1", "replace"))
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        if scheme.lower() != SCHEME or not any(matches):
            raise HTTPException(401, "the API key is wrong", CHALLENGE)

    def _refresh(self) -> None:
        """Read the file again if it has changed. While it cannot be read, or is empty, the keys stay as they were."""
        if time.monotonic() - self._looked < CHECK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            version = self._file_version()
            if version == self._version:
                return
            self._version, digests = version, _read(self._path)
        except (OSError, UnicodeError) as error:
            self._log.warning("API keys cannot be read again; the old ones hold", error=type(error).__name__)
            return
        if digests:
            self._digests = digests
            self._log.info("API keys read again", keys=len(digests))
        else:
            self._log.warning("the file of API keys is empty; the old ones hold")

    def _file_version(self) -> tuple[int, int, int]:
        status = os.stat(self._path)
        return status.st_mtime_ns, status.st_size, status.st_ino


def _read(path: Path) -> tuple[bytes, ...]:
    keys = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return tuple(_digest(key.encode()) for key in keys if key)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
