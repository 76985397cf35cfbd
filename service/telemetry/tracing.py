"""OpenTelemetry spans of exchanges, of the stages of each picture in them, and of the runs that pictures share.

The only module that imports OpenTelemetry, itself imported only when tracing is on. Spans of stages are made afterwards
from the times that the core tells, so that nothing is measured twice and an exchange that is not sampled has none. It
decides nothing, never blocks the event loop, and keeps no image.

An exchange's trace, by name: `POST /classify` or the gRPC method (the exchange, from its head to its answer) over
`classify` (one picture, from received whole to settled) over `admission`, `decode`, `queue` and `run`, the last over
`preprocess` and `inference`; beside `classify`, `response`. An exchange that ended in an error tells which of these it
ended in, as `phiserve.ended_in`; `request` is before the core heard of it. A run of several pictures is also a span
`batch` in a trace of its own, which links to every `classify` in it that is sampled, and their `run` spans link to it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import (
    Link,
    Span,
    SpanContext,
    SpanKind,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.core.instrument import Instrument
from service.core.request import Classification, Plan, QueuedRequest, RunResult
from service.errors import PhiserveError
from service.exchange import Ending, Exchange, ExchangeObserver
from service.telemetry.error_kinds import kind_of
from service.telemetry.logs import bind_trace
from service.telemetry.span_attributes import (
    Attributes,
    of_answer,
    of_ending,
    of_exchange,
    of_failure,
    of_plan,
    span_name,
)
from service.telemetry.stages import Progress, Stage, stages_of_answer, stages_until

logger = logging.getLogger(__name__)

NS_PER_MS = 1_000_000

SPANS_PATH = "/v1/traces"
"""Where a receiver of OTLP over HTTP takes spans, below its base URL."""

TEXT_LENGTH_MAX = 1024
"""Characters of an attribute or a status; what callers send is cut there."""


def open_tracing(endpoint: str, ratio: float, *, version: str, now_ns: Callable[[], int]) -> Tracing:
    """Spans to the OTLP/HTTP receiver whose base URL is `endpoint`, from a thread of the exporter's own.

    `ratio` of the traces that begin here are sampled; one that a caller began is sampled if the caller said so. What
    waits to be sent is bounded, and dropped beyond that. `now_ns` is the engine's clock. The resource is `phiserve`
    with its `version`, unless OTEL_SERVICE_NAME or OTEL_RESOURCE_ATTRIBUTES say otherwise; the SDK itself reads
    OTEL_BSP_*, and OTEL_EXPORTER_OTLP_* for headers, timeout, compression and certificates.
    """
    ours = Resource.create({SERVICE_NAME: "phiserve", SERVICE_VERSION: version})
    resource = ours.merge(OTELResourceDetector().detect())
    processor = BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint.rstrip("/") + SPANS_PATH))

    def tracer(sampler: Sampler) -> Tracer:
        limits = SpanLimits(max_attribute_length=TEXT_LENGTH_MAX)
        provider = TracerProvider(sampler, resource, shutdown_on_exit=False, span_limits=limits)
        provider.add_span_processor(processor)
        return provider.get_tracer("phiserve", version)

    # A batch is a trace of its own, of which there is one only if one of its requests is sampled: never drawn again.
    requests, batches = tracer(ParentBased(TraceIdRatioBased(ratio))), tracer(ALWAYS_ON)
    return Tracing(requests, batches, now_ns=now_ns, shutdown=processor.shutdown)


@dataclass(slots=True, eq=False)
class _Trace:
    """A sampled exchange in progress. `unix_offset_ns`: Unix time minus the engine's clock, as it began.

    `stage` is how far it has come: `request` until a picture has ended, then where the last one failed, or `response`.
    """

    span: Span
    context: Context
    unix_offset_ns: int
    streaming: bool
    exemplar: dict[str, str]
    settled_ns: int | None = None
    stage: str = "request"


@dataclass(slots=True, eq=False)
class _Picture:
    """An admitted picture of a sampled exchange. `batch` is where the run it shares with others is."""

    progress: Progress
    span: Span | None = None
    batch: SpanContext | None = None


_trace: ContextVar[_Trace | None] = ContextVar("trace of the exchange", default=None)
_picture: ContextVar[_Picture | None] = ContextVar("picture of the trace", default=None)


class Tracing(Instrument, ExchangeObserver):
    """Observes both ends: front ends tell of exchanges, the core of the pictures in them and of runs."""

    def __init__(
        self,
        requests: Tracer,
        batches: Tracer,
        *,
        now_ns: Callable[[], int],
        shutdown: Callable[[], None],
        unix_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        """`requests` makes the spans of exchanges, `batches` those of shared runs; see `open_tracing`.

        `shutdown` sends what waits, which may take long, and takes nothing more.
        """
        self._tracer = requests
        self._batches = batches
        self._now_ns = now_ns
        self._unix_ns = unix_ns
        self._shutdown = shutdown
        self._propagator = TraceContextTextMapPropagator()
        self._queued: dict[int, _Picture] = {}
        self._running: dict[tuple[int, ...], Span] = {}

    def exemplar(self) -> dict[str, str] | None:
        """`trace_id` and `span_id` of the exchange whose context this is called in, if it is sampled."""
        trace = _trace.get()
        return None if trace is None else trace.exemplar

    def close(self, timeout_s: float) -> bool:
        """Send what waits; False if that took longer than `timeout_s` and the rest is lost."""
        closing = threading.Thread(target=self._shutdown, name="flush spans", daemon=True)
        closing.start()
        closing.join(timeout_s)
        if closing.is_alive():
            logger.warning("the last spans were not taken within %g s and are lost", timeout_s)
        return not closing.is_alive()

    # What front ends tell -------------------------------------------------------------------------------

    def exchange_began(self, exchange: Exchange) -> None:
        """See `ExchangeObserver`. Takes over W3C trace context (`traceparent`, `tracestate`)."""
        _trace.set(None)
        if exchange.is_probe:
            return
        parent = self._propagator.extract(exchange, getter=_HEADERS)
        unix_ns = self._unix_ns()
        span = self._tracer.start_span(span_name(exchange), parent, SpanKind.SERVER, start_time=unix_ns)
        if not span.is_recording():
            inherited = get_current_span(parent).get_span_context()
            if inherited.is_valid:
                bind_trace(format_trace_id(inherited.trace_id))
            return
        span.set_attributes(of_exchange(exchange))
        found = span.get_span_context()
        ids = {"trace_id": format_trace_id(found.trace_id), "span_id": format_span_id(found.span_id)}
        bind_trace(**ids)
        context = set_span_in_context(span, Context())
        _trace.set(_Trace(span, context, unix_ns - self._now_ns(), exchange.streaming, ids))

    def exchange_ended(self, exchange: Exchange, ending: Ending) -> None:
        """See `ExchangeObserver`."""
        trace = _trace.get()
        if trace is None:
            return
        _trace.set(None)
        now_ns, span = self._now_ns(), trace.span
        if trace.settled_ns is not None and not trace.streaming:
            self._emit(trace, trace.context, Stage("response", trace.settled_ns, now_ns))
        if ending.route:
            span.update_name(span_name(exchange, ending.route))
        span.set_attributes(of_ending(exchange, ending))
        if ending.is_error:
            span.set_attribute("phiserve.ended_in", trace.stage)
        if ending.is_fault:
            span.set_status(StatusCode.ERROR)
        span.end(now_ns + trace.unix_offset_ns)

    # What the core tells --------------------------------------------------------------------------------

    def request_admitted(self) -> None:
        """See `Instrument`."""
        if _trace.get() is not None:
            _picture.set(_Picture(Progress(self._now_ns())))

    def request_queued(self, request: QueuedRequest, queued_ns: int) -> None:
        """See `Instrument`."""
        trace, picture = _trace.get(), _picture.get()
        if trace is None or picture is None:
            return
        picture.progress.request, picture.progress.queued_ns = request, queued_ns
        picture.span = self._classify(trace, request.received_ns)
        self._queued[request.request_id] = picture

    def request_settled(self, classification: Classification) -> None:
        """See `Instrument`."""
        trace, picture = _trace.get(), self._take()
        if trace is None or picture is None or (request := picture.progress.request) is None:
            return
        stages = stages_of_answer(request.received_ns, picture.progress.queued_ns, classification.timings)
        self._end_picture(trace, picture, stages, of_answer(classification))
        if trace.stage == "request":
            trace.stage = "response"

    def request_failed(self, error: Exception, *, admitted: bool, waited_ns: int) -> None:
        """See `Instrument`. The stage that it ended in has the error too."""
        self._ended_early("failed" if admitted else "refused", waited_ns, error)

    def request_cancelled(self, waited_ns: int) -> None:
        """See `Instrument`."""
        self._ended_early("cancelled", waited_ns, None)

    def run_started(self, plan: Plan, started_ns: int) -> None:
        """See `Instrument`."""
        if not self._queued:
            return
        pictures = [picture for number in plan.request_ids if (picture := self._queued.get(number)) is not None]
        for picture in pictures:
            picture.progress.plan, picture.progress.started_ns = plan, started_ns
        if not pictures or len(plan.request_ids) == 1:
            return
        links = [Link(picture.span.get_span_context()) for picture in pictures if picture.span is not None]
        unix_ns = started_ns + self._unix_ns() - self._now_ns()
        batch = self._batches.start_span("batch", Context(), links=links, start_time=unix_ns)
        batch.set_attributes(of_plan(plan))
        self._running[plan.request_ids] = batch
        for picture in pictures:
            picture.batch = batch.get_span_context()

    def run_finished(self, plan: Plan, result: RunResult) -> None:
        """See `Instrument`."""
        batch = self._running.pop(plan.request_ids, None)
        if batch is not None:
            batch.set_attribute("phiserve.preprocess_ms", result.preprocess_ns / NS_PER_MS)
            batch.set_attribute("phiserve.inference_ms", result.inference_ns / NS_PER_MS)
            batch.end()

    def run_failed(self, plan: Plan, error: BaseException) -> None:
        """See `Instrument`."""
        batch = self._running.pop(plan.request_ids, None)
        if batch is not None:
            _blame(batch, error)
            batch.end()

    # Making spans ---------------------------------------------------------------------------------------

    def _take(self) -> _Picture | None:
        """The current context's picture, which ends."""
        picture = _picture.get()
        if picture is not None:
            _picture.set(None)
            if picture.progress.request is not None:
                self._queued.pop(picture.progress.request.request_id, None)
        return picture

    def _ended_early(self, outcome: str, waited_ns: int, error: Exception | None) -> None:
        trace, picture = _trace.get(), self._take()
        if trace is None:
            return
        now_ns, progress = self._now_ns(), None if picture is None else picture.progress
        stages = stages_until(now_ns - waited_ns, progress, now_ns)
        attributes = of_failure(outcome, None if progress is None else progress.request, error)
        self._end_picture(trace, picture, stages, attributes, error)
        trace.stage = stages[-1].name

    def _end_picture(
        self,
        trace: _Trace,
        picture: _Picture | None,
        stages: Sequence[Stage],
        attributes: Attributes,
        error: Exception | None = None,
    ) -> None:
        """End `classify` and make the stages within it, the last of which is to blame for `error`."""
        begin_ns, end_ns = stages[0].begin_ns, stages[-1].end_ns
        classify = picture.span if picture is not None and picture.span is not None else self._classify(trace, begin_ns)
        classify.set_attributes(attributes)
        within = set_span_in_context(classify, Context())
        for stage in stages:
            self._emit(trace, within, stage, picture=picture, error=error if stage is stages[-1] else None)
        if error is not None:
            _blame(classify, error)
        classify.end(end_ns + trace.unix_offset_ns)
        trace.settled_ns = end_ns

    def _classify(self, trace: _Trace, received_ns: int) -> Span:
        return self._tracer.start_span("classify", trace.context, start_time=received_ns + trace.unix_offset_ns)

    def _emit(
        self,
        trace: _Trace,
        parent: Context,
        stage: Stage,
        *,
        picture: _Picture | None = None,
        error: Exception | None = None,
    ) -> None:
        """Make a stage's span with those within it; that of a run tells the plan and links to the batch."""
        start_ns = stage.begin_ns + trace.unix_offset_ns
        plan, links = None, None
        if picture is not None and stage.name == "run":
            plan, links = picture.progress.plan, [] if picture.batch is None else [Link(picture.batch)]
        span = self._tracer.start_span(stage.name, parent, links=links, start_time=start_ns)
        if plan is not None:
            span.set_attributes(of_plan(plan))
        if stage.inner:
            within = set_span_in_context(span, Context())
            for inner in stage.inner:
                self._emit(trace, within, inner)
        if error is not None:
            _blame(span, error)
        span.end(stage.end_ns + trace.unix_offset_ns)


class _Headers(Getter[Exchange]):
    """How the propagator reads an exchange."""

    def get(self, carrier: Exchange, key: str) -> list[str] | None:
        """All values of `key`, joined as one."""
        value = carrier.header(key)
        return None if value is None else [value]

    def keys(self, carrier: Exchange) -> list[str]:  # noqa: ARG002 no propagator of ours looks for names
        """Nothing: names are asked for."""
        return []


_HEADERS = _Headers()


def _blame(span: Span, error: BaseException) -> None:
    """Mark the span as ended by `error`. What callers are not told, a span does not tell either: the log does."""
    if isinstance(error, PhiserveError):
        span.set_attribute("error.type", kind_of(type(error)))
        span.set_status(StatusCode.ERROR, error.detail[:TEXT_LENGTH_MAX])
    else:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(StatusCode.ERROR)
