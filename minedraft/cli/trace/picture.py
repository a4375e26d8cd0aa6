"""A recording as a picture: a row for each service, a colour for each lane, and how much of the time each worked."""

from __future__ import annotations

from typing import Final
from xml.sax.saxutils import escape

from minedraft.cli.trace.recording import Recording, lane_name
from minedraft.generation import StepKind

WIDTH, LEFT, RIGHT = 960, 24, 150
ROW, BAR, TOP, BOTTOM = 66, 30, 62, 46
COLOURS: Final = ("#2563a8", "#c2571a", "#2f7d4f", "#8a4bb0", "#a3821a", "#b03a5b", "#3a8fa3", "#5c5c66")
NARROW: Final = 46  # pixels below which a bar has no words
TICKS: Final = 6


def picture(recording: Recording, title: str) -> str:
    """An SVG of the whole recording."""
    services = recording.services
    height = TOP + ROW * len(services) + BOTTOM
    span = recording.end_ns - recording.begin_ns
    scale = (WIDTH - LEFT - RIGHT) / span
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(LEFT, 24, title, size=15, weight="bold"),
        _text(LEFT, 44, f"both kinds of service at work {recording.overlap():.0%} of the time", colour="#555"),
    ]
    for row, service in enumerate(services):
        y = TOP + ROW * row + 20
        lines += [
            _text(LEFT, y - 6, service.name, colour="#333"),
            f'<rect x="{LEFT}" y="{y}" width="{WIDTH - LEFT - RIGHT}" height="{BAR}" rx="3" fill="#eef0f3"/>',
            _text(WIDTH - RIGHT + 14, y + 20, f"busy {recording.busy(service):.0%}", size=15, weight="bold"),
        ]
        for bar in recording.of_service(service):
            x, width = LEFT + (bar.begin_ns - recording.begin_ns) * scale, (bar.end_ns - bar.begin_ns) * scale
            colour = COLOURS[bar.step.lane % len(COLOURS)]
            verb = "draft" if bar.step.kind is StepKind.DRAFT else "verify"
            words = f"{verb} {lane_name(bar.step.lane)}"
            shown = f"{words}: {(bar.end_ns - bar.begin_ns) / 1e6:.2f} ms, {bar.step.items} sequences"
            lines.append(
                f'<rect x="{x:.2f}" y="{y}" width="{max(width, 0.5):.2f}" height="{BAR}" rx="2" fill="{colour}">'
                f"<title>{escape(shown)}</title></rect>"
            )
            if width >= NARROW:
                lines.append(_text(x + width / 2, y + 20, words, anchor="middle", colour="#fff"))
    lines += _axis(span, height)
    return "\n".join([*lines, "</svg>", ""])


def _axis(span_ns: int, height: int) -> list[str]:
    y = height - 18
    ticks = []
    for tick in range(TICKS + 1):
        x = LEFT + (WIDTH - LEFT - RIGHT) * tick / TICKS
        anchor = "start" if tick == 0 else "end" if tick == TICKS else "middle"
        ticks.append(_text(x, y, f"{span_ns * tick / TICKS / 1e6:.3g} ms", anchor=anchor, colour="#555"))
    return ticks


def _text(
    x: float, y: float, words: str, *, size: int = 13, anchor: str = "start", colour: str = "#222",
    weight: str = "normal",
) -> str:  # fmt: skip
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}" '
        f'font-weight="{weight}">{escape(words)}</text>'
    )
