"""Structured logs on stderr, for people or for machines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Literal

import structlog


def configure(service: str, level: str, form: Literal["console", "json"]) -> None:
    """Set the process up to log. Every line names the service."""
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([structlog.processors.format_exc_info] if form == "json" else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)


def forward(library: str, unless: Callable[[logging.LogRecord], bool] = lambda record: False) -> None:
    """For a process to call once: a library's own warnings and errors go to this process's log."""
    logger = logging.getLogger(library)
    logger.setLevel(logging.WARNING)
    logger.propagate = False
    handler = _ToStructlog(library)
    handler.addFilter(lambda record: not unless(record))
    logger.addHandler(handler)


class _ToStructlog(logging.Handler):
    def __init__(self, library: str) -> None:
        super().__init__()
        self._library = library

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage().strip()
        structlog.get_logger().log(record.levelno, message, library=self._library, exc_info=record.exc_info)
