"""A sample for people."""

from __future__ import annotations

from typing import Any, Final

from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

from minedraft.cli.trace.recording import lane_name

BLOCKS: Final = 12  # characters of a bar


def view(seen: dict[str, Any]) -> Group:
    """Three parts: the whole, the services, the lanes."""
    return Group(_whole(seen), _services(seen["services"]), _lanes(seen["lanes"]))


def _whole(seen: dict[str, Any]) -> Text:
    kept = " ".join(f"{share:.0%}" for share in seen["acceptance_by_position"]) or "-"
    length = seen["acceptance_length"]
    lines = [
        f"{seen['model'] or 'no target yet'}   {seen['tokens_per_second']:.1f} tokens/s   "
        f"{seen['requests_running']} running, {seen['requests_waiting']} waiting, "
        f"{seen['requests_finished']} finished, {seen['requests_aborted']} aborted",
        f"acceptance length {'-' if length is None else f'{length:.2f}'}   kept by position {kept}   "
        f"both kinds of service at work {seen['overlap']:.0%}",
        f"lanes {seen['lanes_chosen']}, K={seen['draft_tokens_chosen']}: {seen['choice'] or '-'}",
    ]
    return Text("\n".join(lines))


def _services(services: list[dict[str, Any]]) -> Table:
    made = Table(box=SIMPLE)
    for name in ("service", "address", "busy", "KV used", "sequences", "channel", "model"):
        made.add_column(name, justify="right" if name in ("KV used", "sequences") else "left", no_wrap=name != "model")
    for one in services:
        state = one["refusal"] or ("" if one["connected"] else "not connected")
        made.add_row(
            one["kind"],
            one["address"],
            Text(state, style="red") if state else _bar(one["busy"]),
            "-" if one["kv_used"] is None else f"{one['kv_used']:.0%}",
            "-" if one["sequences"] is None else str(one["sequences"]),
            one["channel"] or "-",
            one["model"] or "-",
        )
    return made


def _lanes(lanes: list[dict[str, Any]]) -> Table:
    made = Table(box=SIMPLE)
    for name in ("lane", "requests", "rounds/s", "verifier", "drafter"):
        made.add_column(name, justify="left" if name in ("verifier", "drafter") else "right")
    for one in lanes:
        made.add_row(
            lane_name(one["lane"]),
            str(one["requests"]),
            f"{one['rounds_per_second']:.1f}",
            one["verifier"] or "-",
            one["drafter"] or "-",
        )
    return made


def _bar(share: float) -> Text:
    full = round(share * BLOCKS)
    return Text.assemble(("█" * full, "green"), ("░" * (BLOCKS - full), "dim"), f" {share:.0%}")
