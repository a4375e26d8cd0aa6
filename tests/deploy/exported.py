"""Which metrics the services really export, and what PromQL expressions ask for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import promql_parser as promql
from prometheus_client.registry import Collector

from minedraft.process import Service
from minedraft.types import SamplingParams
from tests.cluster import cluster
from tests.http.fake_coordinator import FakeCoordinator, asking, door
from tests.models import tiny_llama

Labels = dict[str, set[str]]  # label names of each metric
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=40, ignore_eos=True)


async def exported(folder: Path) -> dict[str, Labels]:
    """By service: what its collectors show once a request has gone through."""
    found: dict[str, Labels] = {}
    async with cluster(tiny_llama(folder / "target"), "ngram", log_level="warning") as here:
        await here.client.wait_ready(20, drafter=True)
        here.coordinator.collectors()  # from here on waits are observed
        await here.token_ids([70, 71, 72] * 8, GREEDY)
        services: dict[str, Service | None] = {
            "coordinator": here.coordinator, "verifier": here.verifier, "drafter": here.drafter,
        }  # fmt: skip
        for name, service in services.items():
            assert service is not None
            collectors = service.collectors()
            found[name] = await asyncio.to_thread(labels_of, collectors)
    app = door(FakeCoordinator())
    async with asking(app) as client:
        answer = await client.post("/v1/completions", json={"model": "toy", "prompt": "Hi", "max_tokens": 2})
        assert answer.status_code == 200, answer.text
    found["http"] = labels_of([app.metrics.collector()])
    return found


def labels_of(collectors: Iterable[Collector]) -> Labels:
    found: Labels = {}
    for collector in collectors:
        for family in collector.collect():
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric that the expression asks for, with the labels it matches by. Raises ValueError for wrong PromQL."""
    found: list[promql.VectorSelector] = []

    def visit(node: promql.Expr) -> bool:
        if isinstance(node, promql.VectorSelector):
            found.append(node)
        return True

    promql.walk(promql.parse(expression), visit)
    for each in found:
        yield each.name or "", {matcher.name for matcher in each.matchers.matchers}


def grouped_by(expression: str) -> set[str]:
    """Labels that sums keep."""
    return {name for names in re.findall(r"\bby \(([\w, ]+)\)", expression) for name in re.split(r", *", names)}
