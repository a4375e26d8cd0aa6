"""A tracer where one is asked for. Processes without one never load OpenTelemetry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from minedraft.config import ServiceSettings

if TYPE_CHECKING:
    from minedraft.telemetry.tracing import Tracer


def tracer_of(settings: ServiceSettings, service: str, instance: str) -> Tracer | None:
    """Raises SetupError when the extra `otel` is missing, or the endpoint is none."""
    if not settings.otlp:
        return None
    from minedraft.telemetry.tracing import Tracer, forward_logs

    forward_logs()
    return Tracer(service, instance, settings.otlp, settings.trace_sample)
