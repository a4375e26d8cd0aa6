"""The caller's W3C trace context (https://www.w3.org/TR/trace-context/), passed on as it came."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

FORMS: Final = {
    "traceparent": re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}"),
    "tracestate": re.compile(r"[ -~]{1,512}"),
}


def trace_headers(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Those of `headers` that are well formed; a state without its parent means nothing."""
    found = {name: headers[name] for name, form in FORMS.items() if form.fullmatch(headers.get(name, ""))}
    return tuple(found.items()) if "traceparent" in found else ()
