"""The findings for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from rich.table import Table
from rich.text import Text

from minedraft.cli.doctor.finding import Finding, Result

WORDS: Final = {Result.OK: ("ok", "green"), Result.NOT_HERE: ("not here", "yellow"), Result.BROKEN: ("broken", "red")}


def table(findings: Iterable[Finding], asked: Sequence[str]) -> Table:
    """One row a check. What the configuration asks for is marked by a star; a mend stands below what was found."""
    made = Table(title="minedraft doctor (* asked for by the configuration)", title_justify="left")
    made.add_column("what", no_wrap=False)
    made.add_column("result", no_wrap=True)
    made.add_column("found", overflow="fold")
    for found in findings:
        word, style = WORDS[found.result]
        cell = Text(found.found)
        if found.mend and not found.is_ok:
            cell.append(f"\nmend: {found.mend}", style="dim")
        made.add_row(found.title + (" *" if found.name in asked else ""), Text(word, style=style), cell)
    return made
