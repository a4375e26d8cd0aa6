"""Dashboard, alerts and autoscaling ask for metrics that the services really export."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from tests.deploy.exported import Labels, exported, grouped_by, selectors
from tests.deploy.pods import containers
from tests.deploy.variants import DEPLOY, ROOT, Variants

DASHBOARD = DEPLOY / "grafana" / "minedraft.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
ADAPTER = DEPLOY / "prometheus" / "adapter.yaml"
TARGET_LABELS = {"instance", "job", "namespace", "pod", "container"}  # Prometheus' own
UNITS = {"short", "none", "percentunit", "s", "reqps"}
WANTED = {
    "generation_tokens_total", "spec_decode_num_accepted_tokens_total", "spec_decode_num_accepted_tokens_per_pos_total",
    "busy_seconds_total", "forward_seconds_total", "overlap_seconds_total", "num_requests_running",
    "num_requests_waiting", "queue_size", "kv_blocks", "kv_blocks_free", "channel_info", "channel_payloads_total",
    "channel_payloads_replaced_total", "time_to_first_token_seconds_bucket", "inter_token_latency_seconds_bucket",
    "request_latency_seconds_bucket", "requests_total", "requests_failed_total", "peer_up", "http_requests_total",
}  # fmt: skip
Exported = dict[str, Labels]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return await exported(tmp_path_factory.mktemp("models"))


def together(services: Exported) -> Labels:
    names = {name for each in services.values() for name in each}
    return {name: set().union(*(each.get(name, set()) for each in services.values())) for name in names}


def mistakes(expression: str, known: Labels) -> list[str]:
    """Metrics and labels that nobody exports."""
    found, seen = [], set(TARGET_LABELS)
    for name, labels in selectors(expression):
        if name not in known:
            found.append(f"no metric {name}")
            continue
        seen |= known[name]
        found += [f"{name} has no label {label}" for label in sorted(labels - known[name] - TARGET_LABELS)]
    found += [f"no label {label}" for label in sorted(grouped_by(expression) - seen)]
    return found


def panels() -> Iterator[dict[str, Any]]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        if panel["type"] != "row":
            yield panel


def as_prometheus_sees(expression: str) -> str:
    """Grafana fills its variables in first."""
    filled = expression.replace("$__rate_interval", "1m").replace("$coordinator", ".+")
    assert "$" not in filled, expression
    return filled


class TestDashboard:
    def test_every_query_asks_for_what_is_exported(self, services: Exported) -> None:
        known, asked = together(services), 0
        for panel in panels():
            for target in panel["targets"]:
                assert mistakes(as_prometheus_sees(target["expr"]), known) == [], panel["title"]
                asked += 1
        assert asked > 30

    def test_a_wrong_name_is_seen(self, services: Exported) -> None:
        known = together(services)
        assert mistakes("rate(minedraft_busy_second_total[1m])", known) == ["no metric minedraft_busy_second_total"]
        assert mistakes('minedraft_peer_up{servce="a"}', known) == ["minedraft_peer_up has no label servce"]
        assert mistakes("sum by (lan) (minedraft_num_requests_running)", known) == ["no label lan"]
        with pytest.raises(ValueError, match="parenthesis"):
            mistakes("sum(minedraft_peer_up", known)

    def test_it_shows_what_operators_look_for(self) -> None:
        shown = {
            name.removeprefix("minedraft_")
            for panel in panels()
            for target in panel["targets"]
            for name, _ in selectors(as_prometheus_sees(target["expr"]))
        }
        assert shown >= WANTED

    def test_the_lines_are_named_by_labels_that_are_kept(self, services: Exported) -> None:
        for panel in panels():
            for target in panel["targets"]:
                named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                assert named <= grouped_by(target["expr"]) | TARGET_LABELS, panel["title"]

    def test_it_is_what_the_tool_writes(self) -> None:
        module = _load(ROOT / "tools" / "dashboard.py")
        assert DASHBOARD.read_text() == module.text(), "run `python tools/dashboard.py`"

    def test_its_shape(self) -> None:
        board = json.loads(DASHBOARD.read_text())
        assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= set(board)
        assert "id" not in board, "Grafana gives it"
        (source, coordinator) = board["templating"]["list"]
        assert (source["type"], source["name"]) == ("datasource", "datasource")
        assert (coordinator["type"], coordinator["name"]) == ("query", "coordinator")
        numbers = [panel["id"] for panel in board["panels"]]
        assert len(set(numbers)) == len(numbers)
        for panel in panels():
            assert panel["type"] == "timeseries"
            assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
            assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
            letters = [target["refId"] for target in panel["targets"]]
            assert letters == [chr(ord("A") + i) for i in range(len(letters))]
        assert len({panel["title"] for panel in panels()}) == len(list(panels()))

    def test_no_panel_lies_on_another(self) -> None:
        places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
        for place in places:
            assert place["x"] >= 0
            assert place["x"] + place["w"] <= 24
        for one, other in itertools.combinations(places, 2):
            beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
            apart = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
            assert beside or apart, (one, other)


class TestAlerts:
    def test_every_rule_asks_for_what_is_exported(self, services: Exported) -> None:
        known = together(services)
        for rule in self._rules():
            assert mistakes(rule["expr"], known) == [], rule["alert"]

    def test_their_shape(self) -> None:
        rules = self._rules()
        assert len({rule["alert"] for rule in rules}) == len(rules) >= 6
        for rule in rules:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert re.fullmatch(r"\d+[smh]", rule.get("for", "0s"))
            assert rule["labels"]["severity"] in {"warning", "critical"}
            assert set(rule["annotations"]) == {"summary", "description"}
            kept = grouped_by(rule["expr"]) | TARGET_LABELS
            assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= kept

    def _rules(self) -> list[dict[str, Any]]:
        (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
        return list(group["rules"])


class TestAutoscaling:
    def test_each_metric_comes_from_the_adapter(self, variants: Variants, variant: str) -> None:
        made = {rule["name"]["as"] for rule in self._rules()}
        asked = {
            metric["pods"]["metric"]["name"]
            for each in variants.of(variant, "HorizontalPodAutoscaler")
            for metric in each["spec"]["metrics"]
        }
        assert asked == made == {"minedraft_verifier_busy", "minedraft_drafter_busy"}

    def test_the_adapter_asks_for_what_each_service_exports(self, services: Exported) -> None:
        for rule in self._rules():
            service = rule["name"]["as"].split("_")[1]
            ((series, _),) = selectors(rule["seriesQuery"])
            assert f'container="{service}"' in rule["seriesQuery"]
            assert re.fullmatch(rule["name"]["matches"], series)
            query = rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
            query = query.replace("<<.LabelMatchers>>", 'namespace="minedraft",pod=~"a|b"')
            assert mistakes(query, services[service]) == []
            assert f'container="{service}"' in query
            assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}

    def test_containers_are_called_what_the_adapter_calls_them(self, variants: Variants, variant: str) -> None:
        assert {"verifier", "drafter"} <= {container.name for container in containers(variants, variant)}

    def _rules(self) -> list[dict[str, Any]]:
        return list(yaml.safe_load(ADAPTER.read_text())["rules"])


def test_every_metrics_port_is_scraped(variants: Variants, variant: str) -> None:
    (monitor,) = variants.of("cpu+", "PodMonitor")
    assert monitor["spec"]["selector"] == {"matchLabels": {"app.kubernetes.io/name": "minedraft"}}
    scraped = {each["port"]: each["path"] for each in monitor["spec"]["podMetricsEndpoints"]}
    assert set(scraped.values()) == {"/metrics"}
    for container in containers(variants, variant):
        assert container.pod.labels["app.kubernetes.io/name"] == "minedraft"
        port = int(container.environment["MINEDRAFT_METRICS"].rpartition(":")[2])
        (name,) = [name for name, number in container.ports.items() if number == port]
        assert name in scraped


def _load(path: Path) -> Any:
    import importlib.util
    import sys

    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module
