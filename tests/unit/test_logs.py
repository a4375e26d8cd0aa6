"""Other libraries' complaints in a process's own log."""

from __future__ import annotations

import logging

from structlog.testing import capture_logs

from minedraft.telemetry.logs import forward


def test_warnings_and_errors_are_forwarded() -> None:
    forward("tests.forwarded")
    with capture_logs() as lines:
        logging.getLogger("tests.forwarded.part").info("chatter")
        logging.getLogger("tests.forwarded.part").warning("disk %s is full\n", "b")
        try:
            raise ValueError("worse")
        except ValueError:
            logging.getLogger("tests.forwarded").exception("failed")
    assert [(line["log_level"], line["event"], line["library"]) for line in lines] == [
        ("warning", "disk b is full", "tests.forwarded"),
        ("error", "failed", "tests.forwarded"),
    ]
    assert lines[1]["exc_info"][0] is ValueError


def test_what_is_not_wanted_is_left_out() -> None:
    forward("tests.filtered", unless=lambda record: "harmless" in record.getMessage())
    with capture_logs() as lines:
        logging.getLogger("tests.filtered").error("a harmless error")
        logging.getLogger("tests.filtered").error("an error")
    assert [line["event"] for line in lines] == ["an error"]
