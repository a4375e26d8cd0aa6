"""Prometheus metrics over HTTP. Everything is read when it is asked for: a step pays nothing for being watched.

Names follow vLLM's where it has the same thing. Times are seconds, counters count since the process started.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from minedraft.errors import SetupError

PREFIX: Final = "minedraft_"
Labels = Mapping[str, str]


class Reading(Collector):
    """Metrics that are made anew at each reading."""

    def __init__(self, read: Callable[[], Iterable[Metric]]) -> None:
        """`read` is called on a thread of the endpoint's."""
        self._read = read

    def collect(self) -> Iterable[Metric]:
        return self._read()

    def describe(self) -> Iterable[Metric]:
        """Nothing: so that a reading is not made only to learn the names."""
        return ()


class MetricsEndpoint:
    """Serves collectors at http://HOST:PORT/metrics, on threads of its own."""

    def __init__(self, address: str, collectors: Sequence[Collector]) -> None:
        """`address` is HOST:PORT; port 0 takes a free one. Raises SetupError when it is taken."""
        registry = CollectorRegistry()
        for collector in collectors:
            registry.register(collector)
        host, _, port = address.rpartition(":")
        try:
            started: tuple[WSGIServer, threading.Thread] = start_http_server(int(port), host.strip("[]"), registry)
        except OSError as error:
            raise SetupError(f"--metrics: cannot listen on {address} ({error.strerror})") from None
        self._server, self._thread = started
        self.address = f"{host}:{self._server.server_port}"

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def counter(name: str, help_text: str, *values: tuple[Labels, float]) -> Metric:
    """A family of counters, one for each set of labels. The name gets the prefix, and `_total` behind it."""
    return _family(CounterMetricFamily, name, help_text, values)


def gauge(name: str, help_text: str, *values: tuple[Labels, float]) -> Metric:
    """A family of gauges, one for each set of labels."""
    return _family(GaugeMetricFamily, name, help_text, values)


def _family(kind: Any, name: str, help_text: str, values: Sequence[tuple[Labels, float]]) -> Metric:
    names = list(values[0][0]) if values else []
    family: Metric = kind(PREFIX + name, help_text, labels=names)
    for labels, value in values:
        family.add_metric([labels[label] for label in names], value)  # type: ignore[attr-defined]
    return family
