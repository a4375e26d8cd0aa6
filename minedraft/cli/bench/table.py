"""A report for people."""

from __future__ import annotations

from typing import Any

from rich.table import Table

Fields = dict[str, Any]


def table(fields: Fields) -> Table:
    """One row for each figure; the second column covers the steady part of the run alone."""
    steady: Fields = fields["steady"] or {}
    made = Table(title=_title(fields["settings"]), title_justify="left")
    made.add_column("")
    made.add_column("whole run", justify="right")
    made.add_column("steady part", justify="right")
    made.add_row("requests completed / failed", f"{fields['completed']} / {fields['failed']}", "")
    for words, name, form in (
        ("seconds", "seconds", _seconds),
        ("output tokens", "output_tokens", str),
        ("tokens a second", "tokens_per_second", _one_digit),
        ("tokens a second and device", "tokens_per_second_per_device", _one_digit),
        ("verifier busy (forward passes)", "verifier_busy", _percent),
        ("drafter busy (forward passes)", "drafter_busy", _percent),
        ("both at work", "overlap", _percent),
        ("time between verifications", "seconds_per_verification", _milliseconds),
    ):
        made.add_row(words, form(fields[name]), form(steady[name]) if name in steady else "")
    made.add_row("acceptance length", _two_digits(fields["acceptance_length"]), "")
    kept = " ".join(map(_percent, fields["acceptance_by_position"]))
    made.add_row("drafts kept, by position", kept or "-", "")
    for words, name in (("first token", "ttft_ms"), ("between tokens", "itl_ms"), ("whole answer", "latency_ms")):
        made.add_row(f"{words}, p50 / p95 / p99", _percentiles(fields[name]), "")
    return made


def _title(settings: Fields) -> str:
    load = (
        f"{settings['rate']:g} requests a second by mean"
        if settings["rate"]
        else f"{settings['concurrency']} requests in flight"
    )
    return (
        f"{settings['target_model']} with {settings['drafter_model'] or 'no drafter'}: {settings['lanes']} lanes, "
        f"K={settings['draft_tokens']}, {load}"
    )


def _percentiles(values: Fields) -> str:
    return " / ".join("-" if value is None else f"{value:.1f}" for value in values.values()) + " ms"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def _one_digit(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _two_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} s"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{1000 * value:.2f} ms"
