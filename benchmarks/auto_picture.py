"""The grid of `benchmarks.auto` as a picture: one square a cell, by how auto compares with the best fixed choice."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT = 58, 22  # of a square
LEFT, TOP = 150, 64
GAP = 8  # between profiles
STEPS = ((1.02, "#1a7f5a"), (0.99, "#58b58a"), (0.97, "#a9dcc0"), (0.95, "#f3d98b"), (0.0, "#e58b76"))
WORDS = ("1.02 and more", "0.99", "0.97: the bar", "0.95", "less")


def picture(cells: Sequence[dict[str, Any]]) -> str:
    """An SVG."""
    requests = sorted({cell["requests"] for cell in cells})
    rows = list(dict.fromkeys((cell["profile"], cell["acceptance"]) for cell in cells))
    profiles = list(dict.fromkeys(profile for profile, _ in rows))
    place = {row: TOP + number * HEIGHT + profiles.index(row[0]) * GAP for number, row in enumerate(rows)}
    bottom = max(place.values()) + HEIGHT
    width = LEFT + WIDTH * len(requests) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{bottom + 56}" '
        f'viewBox="0 0 {width} {bottom + 56}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{bottom + 56}" fill="#ffffff"/>',
        _text(12, 22, "auto: tokens a second over those of the best fixed choice", size=14),
        _text(LEFT, 44, "requests in flight"),
    ]
    parts += [_text(LEFT + WIDTH * (i + 0.5), TOP - 6, str(n), "middle") for i, n in enumerate(requests)]
    for profile, acceptance in rows:
        y = place[profile, acceptance] + HEIGHT * 0.7
        parts.append(_text(LEFT - 8, y, f"{profile}, {acceptance:g}", "end"))
    for cell in cells:
        x = LEFT + WIDTH * requests.index(cell["requests"])
        y = place[cell["profile"], cell["acceptance"]]
        colour = next(colour for least, colour in STEPS if cell["ratio"] >= least)
        told = escape(f"best fixed: {cell['best']}; auto at the end: {cell['auto']['chosen']}")
        square = f'x="{x}" y="{y}" width="{WIDTH - 2}" height="{HEIGHT - 2}" fill="{colour}"'
        parts.append(f"<rect {square}><title>{told}</title></rect>")
        parts.append(_text(x + WIDTH / 2 - 1, y + HEIGHT * 0.66, f"{cell['ratio']:.2f}", "middle"))
    for number, ((_, colour), words) in enumerate(zip(STEPS, WORDS, strict=True)):
        x = 12 + number * (width - 24) / len(STEPS)
        parts.append(f'<rect x="{x:.0f}" y="{bottom + 20}" width="14" height="14" fill="{colour}"/>')
        parts.append(_text(x + 18, bottom + 32, words))
    return "\n".join([*parts, "</svg>\n"])


def _text(x: float, y: float, words: str, anchor: str = "start", size: int = 12) -> str:
    return (
        f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}" font-size="{size}" fill="#222222">{escape(words)}</text>'
    )
