"""The body of a request: bounded, and JSON."""

from __future__ import annotations

import json
from typing import NoReturn

from starlette.exceptions import HTTPException
from starlette.requests import Request

from minedraft.config import MIB
from minedraft.errors import InvalidRequest

JSON_TYPE = "application/json"


async def read_json(request: Request, limit: int) -> object:
    """The body's JSON value, of at most `limit` bytes of text.

    Raises HTTPException (413, 415), InvalidRequest, or starlette's ClientDisconnect.
    """
    kind = request.headers.get("content-type", JSON_TYPE).partition(";")[0].strip().lower()
    if kind != JSON_TYPE:
        raise HTTPException(415, f"the content type must be {JSON_TYPE}")
    return parse(await _read(request, limit))


def parse(body: bytes) -> object:
    """JSON by the letter of RFC 8259: UTF-8, no NaN, no lone surrogates. Raises InvalidRequest."""
    try:
        text = body.decode()
        value: object = json.loads(text, parse_constant=_refuse_constant)
        if "\\u" in text:  # only escapes can make a surrogate; no text with one can be sent on
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeError:
        raise InvalidRequest("body", "is not UTF-8") from None
    except ValueError as error:  # also integers of thousands of digits
        raise InvalidRequest("body", f"is not JSON: {error}") from None
    except RecursionError:
        raise InvalidRequest("body", "is nested too deeply") from None
    return value


async def _read(request: Request, limit: int) -> bytes:
    told = request.headers.get("content-length", "0")
    if told.isascii() and told.isdigit() and int(told[:20]) > limit:
        raise _too_large(limit)
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise _too_large(limit)
        pieces.append(piece)
    return b"".join(pieces)


def _too_large(limit: int) -> HTTPException:
    # The rest of the body is not read, so that the connection cannot be used again.
    return HTTPException(413, f"the body is larger than {limit / MIB:g} MiB", {"Connection": "close"})


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")
