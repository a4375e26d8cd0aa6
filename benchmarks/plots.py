"""Pictures of recorded results, into docs/images.

    pip install -e ".[plots]"; python -m benchmarks.plots [theory paper rounds speed modes-NAME ...]

Each reads benchmarks/results/NAME.json. Without names, all that are there.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import brentq

from benchmarks.record import RESULTS

IMAGES: Final = Path(__file__).parent.parent / "docs" / "images"
COLOURS: Final = {"plain": "#8c8c8c", "one": "#3b6fb6", "all": "#7fa8d9", "two": "#1a7f5a", "auto": "#d1752c"}
LANES: Final = {(1, 1): "one lane of 16", (1, 2): "one lane of 32", (2, 2): "two lanes of 16"}


def theory(found: dict[str, Any], figure: Figure) -> None:
    """R(v), and what was measured."""

    def ratio(v: float) -> float:
        x = brentq(lambda x: math.exp(x) - 1 - x - v, 1e-9, 50.0)
        return (1 + x + v) * (1 - math.exp(-v)) / v

    axes = figure.subplots()
    vs = np.geomspace(0.05, 20, 200)
    axes.plot(vs, [ratio(v) for v in vs], color=COLOURS["one"], label="theory, R(v)")
    axes.plot([row["v"] for row in found["rows"]], [row["ratio"] for row in found["rows"]], "o", color=COLOURS["two"],
              label="measured, each way with its best K")  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlabel("v = alpha V: how long a verification is, in drafts' worth")
    axes.set_ylabel("two lanes over one of the same size")
    axes.legend()


def paper(found: dict[str, Any], figure: Figure) -> None:
    """Sweeps over K and over the batch, and the five settings."""
    drafts, batch, settings = figure.subplots(1, 3)
    colours = {(1, 1): COLOURS["one"], (1, 2): COLOURS["all"], (2, 2): COLOURS["two"]}
    for axes, name, x in ((drafts, "drafts", "drafts"), (batch, "batch", "size")):
        for key, words in LANES.items():
            points = [_with_size(point) for point in found["sweeps"][name]]
            points = _of_way(points, key, name)
            label = words if name == "drafts" else words.replace("16", "m").replace("32", "2m")
            axes.plot([p[x] for p in points], [p["theory"] for p in points], color=colours[key])
            axes.plot([p[x] for p in points], [p["tokens_per_second"] for p in points], "o", color=colours[key],
                      label=label)  # fmt: skip
        axes.set_ylabel("tokens a second")
        axes.set_ylim(bottom=0)
        axes.legend()
    drafts.set_xlabel("K, lanes of 16")
    batch.set_xlabel("m, K = 4")
    batch.set_xscale("log", base=2)
    drafts.set_title("points: measured, lines: theory", fontsize=9)
    _settings(found["settings"], settings)


def _with_size(point: dict[str, Any]) -> dict[str, Any]:
    return point | {"size": point["requests"] // point["lanes"]}


def _of_way(points: list[dict[str, Any]], key: tuple[int, int], sweep: str) -> list[dict[str, Any]]:
    """The points of one lane of m, one of 2m, or two of m: they were taken in this order."""
    lanes, parts = key
    if sweep == "drafts":
        return [point for point in points if (point["lanes"], point["requests"]) == (lanes, 16 * parts)]
    chosen = points[list(LANES).index(key) :: len(LANES)]
    return [point | {"size": point["requests"] // parts} for point in chosen]


def _settings(rows: list[dict[str, Any]], axes: Axes) -> None:
    chances = sorted({row["acceptance"] for row in rows})
    for shift, chance in enumerate(chances):
        own = [row for row in rows if row["acceptance"] == chance]
        places = np.arange(len(own)) + (shift - 1) * 0.26
        axes.bar(places, [row["same_lane_size"] for row in own], 0.24, color=COLOURS["two"], alpha=0.4 + 0.2 * shift,
                 label=f"{chance:g} of drafts kept")  # fmt: skip
        axes.plot(places, [row["same_requests_in_flight"] for row in own], "_", color="black", markersize=9)
        reported = [(n, row["paper_at_most"]) for n, row in enumerate(own) if row["paper_at_most"]]
    axes.plot(*zip(*reported, strict=True), "D", color=COLOURS["auto"], label="the paper's best")
    axes.plot([], [], "_", color="black", label="at equal requests in flight")
    axes.axhline(1, color="#444444", linewidth=0.8)
    axes.set_xticks(range(len(own)), [row["pair"].replace(" + ", "\n+ ") for row in own], fontsize=6)
    axes.set_ylabel("two lanes over one")
    axes.legend(fontsize=7)


def rounds(found: dict[str, Any], figure: Figure) -> None:
    """Time between verifications."""
    axes = figure.subplots()
    x = [row["drafting_ms"] for row in found["rows"]]
    axes.plot(x, [row["apart_ms"] for row in found["rows"]], "o", color=COLOURS["two"], label="measured")
    axes.plot(x, [row["theory_ms"] for row in found["rows"]], color=COLOURS["one"],
              label="theory: max(V, t, half of one lane's round)")  # fmt: skip
    axes.axhline(found["verifier_ms"], color=COLOURS["plain"], linewidth=0.8, label="the sleep of a verification")
    axes.set_ylim(0, 1.3 * found["verifier_ms"])
    axes.set_xlabel("t: ms to draft a proposal")
    axes.set_ylabel("ms between verifications, two lanes")
    axes.legend()


def speed(found: dict[str, Any], figure: Figure) -> None:
    """Tokens a second of all, at each number of requests."""
    axes = figure.subplots()
    names = list(dict.fromkeys(name for row in found["rows"] for name in row["tokens_per_second"]))
    colours = {"auto": COLOURS["two"], "plain": COLOURS["plain"]}
    for name in names:
        rates = [(row["requests"], row["tokens_per_second"].get(name)) for row in found["rows"]]
        points = [point for point in rates if point[1] is not None]
        own = {"auto": "MineDraft, auto", "plain": "MineDraft, plain"}.get(name, name.replace("_", "."))
        axes.plot(*zip(*points, strict=True), "o-", color=colours.get(name), label=own,
                  linewidth=2.4 if name in colours else 1.2)  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks([row["requests"] for row in found["rows"]], [str(row["requests"]) for row in found["rows"]])
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("requests in flight")
    axes.set_ylabel("tokens a second")
    axes.legend(fontsize=7)


def modes(found: dict[str, Any], figure: Figure) -> None:
    """Throughput in all and per device, and latency, of each way."""
    left, right = figure.subplots(1, 2)
    medians = found["medians"]
    names, places = list(medians), np.arange(len(medians))
    colours = [COLOURS[key] for key in ("plain", "one", "two", "two", "auto")]
    left.bar(places - 0.2, [medians[name]["tokens_per_second"] for name in names], 0.38, color=colours)
    left.bar(places + 0.2, [medians[name]["tokens_per_second_per_device"] for name in names], 0.38, color=colours,
             alpha=0.5)  # fmt: skip
    left.set_ylabel("tokens a second; pale: per device")
    for share, alpha in (("p50", 1.0), ("p95", 0.6), ("p99", 0.3)):
        right.plot(places, [medians[name]["latency_ms"][share] / 1e3 for name in names], "_", markersize=22,
                   color="black", alpha=alpha, label=share)  # fmt: skip
    right.set_ylabel("seconds of an answer")
    right.set_ylim(bottom=0)
    right.legend()
    for axes in (left, right):
        axes.set_xticks(places, [name.replace(", ", ",\n").replace("plain ", "plain\n") for name in names], fontsize=7)


DRAWN: Final[dict[str, tuple[Callable[[dict[str, Any], Figure], None], tuple[float, float]]]] = {
    "theory": (theory, (6, 3.6)),
    "paper": (paper, (12, 3.8)),
    "rounds": (rounds, (6, 3.6)),
    "speed": (speed, (6.4, 4.4)),
    "modes": (modes, (9, 3.6)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names or [
        file.stem for file in sorted(RESULTS.glob("*.json")) if file.stem.partition("-")[0] in DRAWN
    ]
    mpl.rcParams |= {"svg.hashsalt": "minedraft", "svg.fonttype": "none", "axes.spines.top": False,
                     "axes.spines.right": False, "font.size": 9}  # fmt: skip
    for name in names:
        draw, size = DRAWN[name.partition("-")[0]]
        figure = Figure(figsize=size, layout="constrained")
        draw(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")), figure)
        figure.savefig(IMAGES / f"{name}.svg", metadata={"Date": None})
        print(IMAGES.name, f"{name}.svg")


if __name__ == "__main__":
    main()
