"""A tracer where one is asked for. Processes without one never load OpenTelemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minedraft.config import ServiceSettings
from minedraft.telemetry import logs

if TYPE_CHECKING:
    from minedraft.telemetry.tracing import Tracer


def tracer_of(settings: ServiceSettings, service: str, instance: str) -> Tracer | None:
    """Raises SetupError when the extra `otel` is missing, or the endpoint is none."""
    if not settings.otlp:
        return None
    from minedraft.telemetry.tracing import Tracer

    logs.forward("opentelemetry")
    return Tracer(service, instance, settings.otlp, settings.trace_sample)
