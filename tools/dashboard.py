"""Writes deploy/grafana/minedraft.json: python tools/dashboard.py. A test holds the file to this."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

FILE: Final = Path(__file__).parents[1] / "deploy" / "grafana" / "minedraft.json"
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS: Final = 24  # of Grafana's grid
HEIGHT: Final = 8
AT: Final = '{instance=~"$coordinator"}'  # of the coordinators that were chosen
REPLICA: Final = '{service=""}'  # a model service's own: there the coordinator's label is missing
QUANTILES: Final = ("0.5", "0.95", "0.99")


@dataclass(frozen=True, slots=True)
class Line:
    """One query and how its lines are called."""

    expression: str
    legend: str = "__auto"


@dataclass(frozen=True, slots=True)
class Panel:
    """`unit` is one of Grafana's; `top` a fixed upper end of the axis."""

    title: str
    lines: tuple[Line, ...]
    unit: str = "short"
    about: str = ""
    top: float | None = None


def rate(name: str, matchers: str = AT) -> str:
    return f"rate(minedraft_{name}{matchers}[$__rate_interval])"


def quantiles(name: str, by: str = "le") -> tuple[Line, ...]:
    """p50, p95 and p99 of a histogram; only the coordinator's are chosen by instance."""
    matchers = "" if name.startswith("http_") else AT
    total = f"sum by ({by}) ({rate(name + '_bucket', matchers)})"
    return tuple(Line(f"histogram_quantile({q}, {total})", f"p{float(q) * 100:g}") for q in QUANTILES)


def sum_of(name: str, *by: str, matchers: str = AT) -> str:
    grouping = f"by ({', '.join(by)}) " if by else ""
    return f"sum {grouping}({rate(name, matchers)})"


SPECULATION: Final = (
    Panel("Tokens", (Line(sum_of("generation_tokens_total"), "tokens a second"),), "none"),
    Panel(
        "Acceptance length",
        (Line(f"1 + {sum_of('spec_decode_num_accepted_tokens_total')} / {sum_of('spec_decode_num_drafts_total')}",
              "tokens a verification"),),
        about="Drafts kept in a verification that had drafts, and the verifier's own token.",
    ),
    Panel(
        "Acceptance by position",
        (Line(f"{sum_of('spec_decode_num_accepted_tokens_per_pos_total', 'position')} / ignoring (position) group_left "
              f"{sum_of('spec_decode_num_drafts_total')}", "draft {{position}}"),),
        "percentunit", "Share of verifications in which the draft at this place was kept.", 1,
    ),
    Panel(
        "Drafts",
        (Line(sum_of("spec_decode_num_draft_tokens_total"), "verified"),
         Line(sum_of("spec_decode_num_accepted_tokens_total"), "kept")),
        "none", "Tokens a second.",
    ),
)  # fmt: skip
WORK: Final = (
    Panel("Busy", (Line(sum_of("busy_seconds_total", "service"), "{{service}}"),), "percentunit",
          "Time in steps: forward passes and the host work around them. With several replicas their sum.", 1),
    Panel("Forward passes", (Line(sum_of("forward_seconds_total", "service"), "{{service}}"),), "percentunit",
          "Time in forward passes.", 1),
    Panel(
        "Overlap and idle",
        (Line(sum_of("overlap_seconds_total"), "both at work"),
         Line(f"clamp_min(1 - {sum_of('busy_seconds_total', 'service')}, 0)", "{{service}} idle")),
        "percentunit", "For one drafter and one verifier; replicas' own idle time is in the panel of replicas.", 1,
    ),
    Panel("Busy, each replica", (Line(rate("busy_seconds_total", REPLICA), "{{instance}}"),), "percentunit",
          "What autoscaling looks at; 1 minus this is idle.", 1),
    Panel(
        "Time of a step",
        (Line(f"{sum_of('busy_seconds_total', 'service')} / {sum_of('steps_total', 'service')}", "{{service}}"),), "s",
    ),
    Panel(
        "Wait of a step for its engine",
        (Line(f"{rate('queue_seconds_total', '')} / {rate('steps_total', REPLICA)}", "{{instance}}"),), "s",
        "At the verifier a little is good: the next lane's step is there before it is needed.",
    ),
)  # fmt: skip
LANES: Final = (
    Panel("Requests of each lane", (Line(f"sum by (lane) (minedraft_num_requests_running{AT})", "lane {{lane}}"),)),
    Panel(
        "Lane imbalance",
        (Line(f"max(minedraft_num_requests_running{AT}) - min(minedraft_num_requests_running{AT})", "requests"),),
        about="Requests in the fullest lane beyond those in the emptiest.",
    ),
    Panel(
        "Queue",
        (Line(f"sum(minedraft_num_requests_waiting{AT})", "waiting"), Line(f"sum(minedraft_queue_size{AT})", "room")),
    ),
    Panel("Rounds", (Line(sum_of("lane_rounds_total", "lane"), "lane {{lane}}"),), "none", "Rounds a second."),
)
ROOM: Final = (
    Panel(
        "KV cache, in use",
        (Line(f"1 - minedraft_kv_blocks_free{REPLICA} / minedraft_kv_blocks{REPLICA}", "{{instance}}"),),
        "percentunit", "Blocks of each replica.", 1,
    ),
    Panel("Sequences", (Line("minedraft_sequences", "{{instance}}"),), about="Held by each replica."),
    Panel(
        "Connected",
        (Line(f"sum by (service) (minedraft_peer_up{AT})", "{{service}}"),
         Line(f"sum by (service) (increase(minedraft_peer_connections_total{AT}[$__rate_interval]))",
              "{{service}}, made")),
        about="Services in use, and connections made.",
    ),
)  # fmt: skip
CHANNEL: Final = (
    Panel("Channel", (Line(f"sum by (kind) (minedraft_channel_info{AT})", "{{kind}}"),),
          about="Kind of the open tensor channel, `none` without one."),
    Panel(
        "Dense laws",
        (Line(sum_of("channel_payloads_total"), "over a channel"),
         Line(sum_of("channel_payloads_replaced_total"), "replaced by top-M")),
        "none", "A second.",
    ),
    Panel(
        "Channels opened", (Line(f"sum(increase(minedraft_channels_opened_total{AT}[$__rate_interval]))", "opened"),),
    ),
)  # fmt: skip
WAITS: Final = (
    Panel("Time to first token", quantiles("time_to_first_token_seconds"), "s"),
    Panel("Between tokens", quantiles("inter_token_latency_seconds"), "s"),
    Panel("Request latency", quantiles("request_latency_seconds"), "s"),
)
REQUESTS: Final = (
    Panel("Requests over", (Line(sum_of("requests_total", "ended"), "{{ended}}"),), "reqps"),
    Panel("Requests refused or failed", (Line(sum_of("requests_failed_total", "code"), "{{code}}"),), "reqps",
          "RESOURCE_EXHAUSTED: the queue was full, or a client was over its limits."),
)  # fmt: skip
DOOR: Final = (
    Panel("HTTP requests", (Line(sum_of("http_requests_total", "status", matchers=""), "{{status}}"),), "reqps"),
    Panel(
        "HTTP generations", (Line(sum_of("http_generations_total", "finished_reason", matchers=""),
                                  "{{finished_reason}}"),), "reqps",
    ),
    Panel("HTTP requests in flight", (Line("sum(minedraft_http_requests_in_flight)", "in flight"),)),
    Panel("HTTP time to first token", quantiles("http_time_to_first_token_seconds"), "s"),
    Panel("HTTP between tokens", quantiles("http_inter_token_latency_seconds"), "s"),
    Panel("HTTP request latency", quantiles("http_request_latency_seconds"), "s"),
)  # fmt: skip
ROWS: Final = (
    ("Speculation", SPECULATION), ("Drafter and verifier", WORK), ("Lanes and queue", LANES), ("Room", ROOM),
    ("Tensor channel", CHANNEL), ("What clients wait for", WAITS), ("Requests", REQUESTS), ("HTTP door", DOOR),
)  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    return {
        "uid": "minedraft",
        "title": "MineDraft",
        "description": "Drafter, verifier and the lanes between them. Written by tools/dashboard.py.",
        "tags": ["minedraft"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,  # one crosshair for all panels
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": list(_variables())},
        "annotations": {"list": []},
        "panels": list(_panels()),
    }


def _variables() -> Iterator[dict[str, Any]]:
    yield {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus", "hide": 0}
    query = "label_values(minedraft_queue_size, instance)"
    yield {
        "name": "coordinator", "label": "Coordinator", "type": "query", "datasource": DATASOURCE, "definition": query,
        "query": {"query": query, "refId": "coordinators"}, "refresh": 2, "includeAll": True, "allValue": ".+",
        "multi": True, "sort": 1, "hide": 0, "current": {"text": "All", "value": "$__all"},
    }  # fmt: skip


def _panels() -> Iterator[dict[str, Any]]:
    number, y = 0, 0
    for title, panels in ROWS:
        number += 1
        yield {"id": number, "type": "row", "title": title, "collapsed": False, "panels": [],
               "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1}}  # fmt: skip
        y += 1
        for shelf in _shelves(panels):
            width = COLUMNS // len(shelf)
            for place, panel in enumerate(shelf):
                number += 1
                yield _drawn(panel, number, {"x": place * width, "y": y, "w": width, "h": HEIGHT})
            y += HEIGHT


def _shelves(panels: tuple[Panel, ...]) -> Iterable[tuple[Panel, ...]]:
    """Three or four side by side, whichever leaves no gap."""
    across = 4 if len(panels) % 4 == 0 else 3
    return (panels[i : i + across] for i in range(0, len(panels), across))


def _drawn(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": line.expression, "legendFormat": line.legend,
         "editorMode": "code", "range": True}
        for i, line in enumerate(panel.lines)
    ]  # fmt: skip
    axis = {"unit": panel.unit, "min": 0, "custom": {"fillOpacity": 10, "showPoints": "never"}}
    return {
        "id": number,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": DATASOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": axis | ({} if panel.top is None else {"max": panel.top}), "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def text() -> str:
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
    print(FILE)
