"""Bearer tokens of clients: a file, read again when it changes. A token is never logged and never in an error.

One a line: `TOKEN`, `NAME:TOKEN` or `NAME:TOKEN:EXPIRY`. NAME is what logs and limits call the client; several tokens
may share one, so that a token can be replaced without a gap. EXPIRY is an RFC 3339 date (its beginning, UTC) or
date-time; before it an empty NAME is allowed. Blank lines and lines that begin with # are comments. A TOKEN is written
in the alphabet of bearer tokens, RFC 6750 section 2.1.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog

from minedraft.errors import SetupError, Unauthenticated
from minedraft.watched import Version, readable, version_of, warn_if_others_read

FLAG: Final = "--token-file"
SCHEME: Final = "bearer "
CHECK_SECONDS: Final = 1.0  # between looks at the file
SHORTEST: Final = 16  # characters
TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
DATE: Final = re.compile(r"\d{4}-\d\d-\d\d")
DATE_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)")


@dataclass(frozen=True, slots=True)
class Token:
    """One line of the file."""

    name: str  # of the client; "line 3" where the line gives none
    secret: str = field(repr=False)
    expires: datetime | None = None  # aware

    def expired(self, now: datetime) -> bool:
        return self.expires is not None and now >= self.expires


def parse(text: str) -> tuple[Token, ...]:
    """The tokens of a file. Raises SetupError with the line's number and without its words."""
    lines = ((number, line.strip()) for number, line in enumerate(text.splitlines(), start=1))
    return tuple(_token(number, line) for number, line in lines if line and not line.startswith("#"))


def read(path: Path) -> tuple[Token, ...]:
    """The file's tokens, at least one. Raises SetupError."""
    try:
        tokens = parse(readable(FLAG, path).decode("utf-8"))
    except UnicodeError:
        raise SetupError(f"{FLAG}: {path} is not UTF-8 text") from None
    except SetupError as error:
        raise SetupError(f"{FLAG}: {path}: {str(error).removeprefix(f'{FLAG}: {path} ')}") from None
    if not tokens:
        raise SetupError(f"{FLAG}: {path} holds no token: write one a line, made by `openssl rand -hex 32`")
    return tokens


def first_secret(path: Path) -> str:
    """What a client sends: the file's first token that has not expired. Raises SetupError."""
    now = datetime.now(UTC)
    secret = next((token.secret for token in read(path) if not token.expired(now)), None)
    if secret is None:
        raise SetupError(f"{FLAG}: every token in {path} has expired")
    return secret


class Tokens:
    """Whose tokens are accepted. Mutated by `client_of` only, when the file has changed. For one event loop."""

    def __init__(self, path: Path) -> None:
        """Raises SetupError for a file without a token, or with a line that is none."""
        self._path = path
        self._log = structlog.get_logger()
        version = _version(path)
        self._known = _digested(read(path))
        self._version = version
        self._looked = time.monotonic()
        warn_if_others_read(FLAG, path)

    def client_of(self, authorization: Sequence[str | bytes]) -> str:
        """The name that belongs to the token in a call's `authorization` metadata. Raises Unauthenticated.

        The token is compared with all, equally long whichever it is like.
        """
        self._refresh()
        if not authorization:
            raise Unauthenticated("a token is needed, as metadata `authorization: Bearer TOKEN`: see --token-file")
        given = _digest(_secret_of(authorization))
        now = datetime.now(UTC)
        matches = [token for token in self._known if hmac.compare_digest(given, token.digest)]
        valid = [token for token in matches if token.expires is None or now < token.expires]
        if valid:
            return valid[0].name
        raise Unauthenticated("the token has expired" if matches else "the token is wrong")

    def _refresh(self) -> None:
        """Read the file again if it has changed. While it makes no sense, the tokens stay as they were."""
        if time.monotonic() - self._looked < CHECK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            version = _version(self._path)
            if version == self._version:
                return
            self._version = version
            self._known = _digested(read(self._path))
        except SetupError as error:
            self._log.warning("tokens cannot be read again; the old ones hold", reason=str(error))
            return
        self._log.info("tokens read again", tokens=len(self._known))


@dataclass(frozen=True, slots=True)
class _Known:
    """A token without its words."""

    name: str
    digest: bytes = field(repr=False)
    expires: datetime | None


def _digested(tokens: Sequence[Token]) -> tuple[_Known, ...]:
    return tuple(_Known(token.name, _digest(token.secret.encode()), token.expires) for token in tokens)


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _version(path: Path) -> Version:
    try:
        return version_of([path])
    except OSError as error:
        raise SetupError(f"{FLAG}: {path} cannot be read: {error.strerror}") from None


def _secret_of(authorization: Sequence[str | bytes]) -> bytes:
    """The token's bytes. Raises Unauthenticated for metadata that is no single bearer token."""
    value = authorization[0].encode("utf-8", "replace") if isinstance(authorization[0], str) else authorization[0]
    if len(authorization) > 1 or value[: len(SCHEME)].lower() != SCHEME.encode():
        raise Unauthenticated("the metadata `authorization` must be one `Bearer TOKEN`")
    return value[len(SCHEME) :].strip()


def _token(number: int, line: str) -> Token:
    name, secret, expiry = "", line, ""
    if ":" in line:
        name, secret, expiry, *_ = [part.strip() for part in line.split(":", 2)] + [""]
    if name and not NAME.fullmatch(name):
        raise SetupError(f"line {number}: a name has up to 64 letters, digits, dots, dashes and underscores")
    if not TOKEN.fullmatch(secret) or len(secret) < SHORTEST:
        raise SetupError(
            f"line {number}: a token has at least {SHORTEST} letters, digits and characters of ._~+/-, "
            "e.g. from `openssl rand -hex 32`"
        )
    if ":" in line and not (name or expiry):
        raise SetupError(f"line {number}: the name before the colon is missing")
    return Token(name or f"line {number}", secret, _expiry(number, expiry) if expiry else None)


def _expiry(number: int, text: str) -> datetime | None:
    try:
        if DATE.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC)
        if DATE_TIME.fullmatch(text):
            return datetime.fromisoformat(text.upper())
    except ValueError:
        pass
    raise SetupError(f"line {number}: the expiry is not an RFC 3339 date such as 2030-01-31 or 2030-01-31T12:00:00Z")
