"""OpenTelemetry spans of sampled requests, through all services, sent by OTLP over gRPC.

A request is a span of the coordinator's, with a child for its time in the queue and one for each round; the drafter's
and the verifier's steps are children of rounds, by the W3C trace context (https://www.w3.org/TR/trace-context/) in
their items. Requests that are not sampled cost a comparison with None a round. No span has text or tokens in it.

Needs the extra `otel`; only a process that is told to trace imports this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

import structlog

from minedraft.errors import SetupError
from minedraft.types import DraftItem, StepTiming, VerifyItem

try:
    from opentelemetry.context import Context
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ImportError as error:  # pragma: no cover  # the tests have the extra
    raise SetupError(f"{error}: --otlp needs `pip install 'minedraft[otel]'`") from error

EXPORT_SECONDS: Final = 5
PREFIX: Final = "minedraft."


class Tracer:
    """One process's spans. Batches leave on a thread of their own; what a collector does not take is dropped."""

    def __init__(self, service: str, instance: str, endpoint: str, share: float) -> None:
        """`endpoint` is http://HOST:PORT, or https:// for TLS; `share` of the requests whose callers do not say
        whether to trace are traced. Raises SetupError for an endpoint that is none."""
        parts = urlsplit(endpoint)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SetupError(f"--otlp: {endpoint!r} is neither http://HOST:PORT nor https://HOST:PORT")
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(share)),
            resource=Resource(
                {"service.namespace": "minedraft", "service.name": service, "service.instance.id": instance}
            ),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=endpoint, insecure=parts.scheme == "http", timeout=EXPORT_SECONDS)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("minedraft")
        self._propagator = TraceContextTextMapPropagator()
        structlog.get_logger().info("tracing", otlp=endpoint, share=share)

    def request(self, headers: Mapping[str, str], request_id: str) -> RequestTrace | None:
        """The trace of a request that begins now; None when it is not sampled. `headers` are the caller's."""
        span = self._tracer.start_span(
            "generate",
            context=self._propagator.extract(headers),
            kind=SpanKind.SERVER,
            attributes={PREFIX + "request_id": request_id},
        )
        return RequestTrace(self, span) if span.is_recording() else None

    def steps(self, name: str, items: Sequence[DraftItem] | Sequence[VerifyItem], timing: StepTiming) -> None:
        """A span for each traced item of a step that is over."""
        for item in items:
            if item.traceparent:
                span = self._tracer.start_span(
                    name,
                    context=self._propagator.extract({"traceparent": item.traceparent}),
                    kind=SpanKind.SERVER,
                    start_time=timing.started_unix_ns,
                    attributes={
                        PREFIX + "step.items": len(items),
                        PREFIX + "step.queue_ms": timing.queue_ns * 1e-6,
                        PREFIX + "step.forward_ms": timing.forward_ns * 1e-6,
                        PREFIX + "tail_tokens": len(item.tail_token_ids),
                        PREFIX + "draft_tokens": _drafts(item),
                    },
                )
                span.end(timing.started_unix_ns + timing.host_ns + timing.forward_ns)

    def child(self, name: str, parent: Context) -> Span:
        return self._tracer.start_span(name, context=parent)

    def close(self) -> None:
        """Send what is left, for a few seconds at most. Blocks."""
        self._provider.shutdown()


class RequestTrace:
    """The spans of one sampled request at the coordinator. Mutated by its lane, on the event loop."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._inside = set_span_in_context(span)
        self._phase: Span | None = tracer.child("queue", self._inside)
        self.trace_id = f"{span.get_span_context().trace_id:032x}"

    @property
    def traceparent(self) -> str:
        """The trace context for what is asked of the services now."""
        context = (self._phase or self._span).get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def begin_round(self, lane: int) -> None:
        """A round begins; what came before is over."""
        if self._phase is not None:
            self._phase.end()
        self._phase = self._tracer.child("round", self._inside)
        self._phase.set_attribute(PREFIX + "lane", lane)

    def end_round(self, drafts: int, accepted: int, emitted: bool) -> None:
        """Its verdict came. A round that emits nothing has fed a part of the prompt."""
        if self._phase is None:
            return
        if not emitted:
            self._phase.update_name("prefill")
        self._phase.set_attributes({PREFIX + "draft_tokens": drafts, PREFIX + "accepted_tokens": accepted})
        self._phase.end()
        self._phase = None

    def over(self, ending: str, prompt_tokens: int, completion_tokens: int, failed: bool) -> None:
        """The request is over."""
        if self._phase is not None:
            self._phase.end()
            self._phase = None
        self._span.set_attributes(
            {
                PREFIX + "ended": ending,
                PREFIX + "prompt_tokens": prompt_tokens,
                PREFIX + "completion_tokens": completion_tokens,
            }
        )
        if failed:
            self._span.set_status(Status(StatusCode.ERROR, ending))
        self._span.end()


def _drafts(item: DraftItem | VerifyItem) -> int:
    if isinstance(item, DraftItem):
        return item.max_draft_tokens
    return len(item.proposal.token_ids) if item.proposal else 0
