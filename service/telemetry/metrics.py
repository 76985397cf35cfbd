"""Prometheus metrics of the core, as an `Instrument`: what happened to requests, budgets, stages and runs.

Times are in seconds and accuracy is a ratio, as Prometheus asks for base units. Every label has a bounded set of
values: stages, results and error kinds are fixed here or by the error tree, variants by the store; nothing a caller
sends becomes a label. It decides nothing, keeps no request, and its methods neither block nor raise.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    Summary,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.openmetrics import exposition as openmetrics

from service.core.instrument import Instrument
from service.core.request import Classification, Plan, RunResult
from service.errors import DeadlineExceeded, Overloaded, PhiserveError
from service.telemetry.error_kinds import UNEXPECTED, kind_of
from service.telemetry.residency_metrics import ResidencyMetrics

NS_PER_S = 1_000_000_000

DURATION_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10)
"""Around the budgets callers ask for, 1 ms to 10 s; densest at 10 to 200 ms, where most variants lie."""

BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64)

FORECAST_BUCKETS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.5, 2, 4)
"""Measured over planned latency: up to 1 the plan held."""

SLACK_BUCKETS = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Slack as a share of the budget, so that budgets of 30 ms and of 1 s can be told in one histogram."""

STAGES = ("decode", "queue", "preprocess", "inference")

OUTCOMES = ("answered", "refused", "failed", "cancelled")
"""refused: at the door; failed: after it was passed; cancelled: the caller left."""

BUDGET_RESULTS = ("met", "missed", "refused", "expired", "overloaded")
"""met, missed: answered in time or late; refused, expired: infeasible at the door or later; overloaded: no room."""

RUN_RESULTS = ("finished", "failed")

RELOAD_OUTCOMES = ("loaded", "unchanged", "refused")
"""loaded: another version took over; unchanged: the store held what was served; refused: it cannot be served."""

NO_VARIANT = ""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""The version that everything reads which reads metrics at all."""

_OPENMETRICS = "application/openmetrics-text"

Exemplar = Callable[[], dict[str, str] | None]
"""What a measurement taken now is an example of, as labels: `trace_id` and `span_id`. None: of nothing that is kept."""


def create_registry(version: str) -> CollectorRegistry:
    """A registry of its own (not the library's global one), with process, platform, GC and build information."""
    # Otherwise every counter and histogram has a second series with its birth time, which nobody asks for.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # the library has no annotation there
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    build = Info("phiserve_build", "What is running", registry=registry)
    build.info({"version": version, "python": platform.python_version(), "machine": platform.machine()})
    return registry


def render(registry: CollectorRegistry, accept: str = "") -> tuple[bytes, str]:
    """The metrics page: body and content type.

    In OpenMetrics 1.0, the only text format with exemplars, if `accept` names it as Prometheus does; else in the
    classic one. The library's own choice would take any version that a caller names, and put it into the answer.
    """
    if any(kind.partition(";")[0].strip().lower() == _OPENMETRICS for kind in accept.split(",")):
        # The library has no annotations there.
        body: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call]
        return body, openmetrics.CONTENT_TYPE_LATEST
    return generate_latest(registry), CONTENT_TYPE


class PrometheusInstrument(Instrument):
    """Observes the core; construct it once for each registry."""

    def __init__(self, registry: CollectorRegistry, exemplar: Exemplar = lambda: None) -> None:
        """`exemplar` is asked in the context of each request that ends, and must not raise."""
        self._registry = registry
        self._requests = _Requests(registry, exemplar)
        self._runs = _Runs(registry)
        self._store = _Store(registry)
        self.residency = ResidencyMetrics(registry)

    def metrics_page(self, accept: str = "") -> tuple[bytes, str]:
        """See `render`."""
        return render(self._registry, accept)

    def variants_served(self, top1: Mapping[str, float | None]) -> None:
        """What there is, with its accuracy in percent where that is known.

        Every series by variant gets its first value, 0: one that begins with an event hides it from `rate`.
        """
        for name, accuracy in top1.items():
            self._requests.expect(name, accuracy)
            self._runs.expect(name)

    def store_loaded(self, version: str, top1: Mapping[str, float | None]) -> None:
        """This version of the store serves from now on; its variants as `variants_served` takes them."""
        self._store.loaded(version)
        self.variants_served(top1)

    def reload_ended(self, outcome: str) -> None:
        """One of `RELOAD_OUTCOMES`."""
        self._store.reloads.labels(outcome).inc()

    def request_admitted(self) -> None:
        """See `Instrument`."""
        self._requests.admitted += 1

    def request_settled(self, classification: Classification) -> None:
        """See `Instrument`."""
        self._requests.settled(classification)

    def request_failed(self, error: Exception, *, admitted: bool, waited_ns: int) -> None:
        """See `Instrument`."""
        self._requests.failed(error, admitted=admitted, waited_ns=waited_ns)

    def request_cancelled(self, waited_ns: int) -> None:
        """See `Instrument`."""
        self._requests.ended("cancelled", NO_VARIANT, waited_ns, admitted=True)

    def queue_changed(self, queued: int, in_flight: int) -> None:
        """See `Instrument`."""
        self._runs.queued, self._runs.running = queued, in_flight

    def run_finished(self, plan: Plan, result: RunResult) -> None:
        """See `Instrument`."""
        self._runs.finished(plan, result)

    def run_failed(self, plan: Plan, error: BaseException) -> None:  # noqa: ARG002 the core logs the error
        """See `Instrument`."""
        self._runs.runs.labels(plan.variant, "failed").inc()


class _Requests:
    """Metrics whose unit is one request."""

    def __init__(self, registry: CollectorRegistry, exemplar: Exemplar) -> None:
        self._exemplar = exemplar
        self._top1: dict[str, float | None] = {}
        self._ends: dict[tuple[str, str], Counter] = {}
        self.requests = Counter(
            "phiserve_requests",
            "Requests that ended, by how; variant of the answers",
            ["outcome", "variant"],
            registry=registry,
        )
        self.errors = Counter(
            "phiserve_errors", "Requests that ended in an error, by kind", ["reason"], registry=registry
        )
        self.budgets = Counter(
            "phiserve_budget",
            "Requests that were asked to make a budget, by what became of it; "
            "met over all is the attainment of service-level objectives",
            ["result"],
            registry=registry,
        )
        self.admitted = 0
        admitted = Gauge("phiserve_admitted", "Requests between the door and their answer", registry=registry)
        admitted.set_function(lambda: self.admitted)  # when somebody looks: to count in a gauge takes a lock
        self.duration = Histogram(
            "phiserve_request_duration_seconds",
            "From received whole to ended",
            ["outcome"],
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self.stages = Histogram(
            "phiserve_stage_duration_seconds",
            "Where answered requests spent their time; each waits for all of its batch's preprocess and inference",
            ["stage"],
            buckets=DURATION_BUCKETS_S,
            registry=registry,
        )
        self.accuracy = Summary(
            "phiserve_served_accuracy_ratio",
            "Top-1 accuracy of the variants behind in-time answers; sum over count is the mean serving accuracy",
            registry=registry,
        )
        self.degraded = Counter(
            "phiserve_degraded_answers",
            "Answers for which an idle server would have used a better variant",
            registry=registry,
        )
        self.given_up = Summary(
            "phiserve_given_up_accuracy_ratio",
            "Top-1 accuracy that answers lack of what an idle server would have used for them; "
            "sum over count is what load costs an answer, to scale by",
            registry=registry,
        )
        self.slack = Histogram(
            "phiserve_dispatch_slack_ratio",
            "Share of its budget that an answered request still had when its run began: what the queue left",
            buckets=SLACK_BUCKETS,
            registry=registry,
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        """A series that is absent until its first event makes rates and alerts miss that event.

        Those of every answer are kept at hand: finding a series by its labels takes longer than counting in it.
        """
        self._durations = {outcome: self.duration.labels(outcome) for outcome in OUTCOMES}
        self._budgets = {result: self.budgets.labels(result) for result in BUDGET_RESULTS}
        self._stages = {stage: self.stages.labels(stage) for stage in STAGES}
        for outcome in OUTCOMES:
            if outcome != "answered":
                self._ends[outcome, NO_VARIANT] = self.requests.labels(outcome, NO_VARIANT)
        kinds = [*map(kind_of, PhiserveError.__subclasses__()), UNEXPECTED]
        self._errors = {kind: self.errors.labels(kind) for kind in kinds}

    def expect(self, variant: str, top1: float | None) -> None:
        self._ends["answered", variant] = self.requests.labels("answered", variant)
        self._top1[variant] = top1

    def settled(self, classification: Classification) -> None:
        timings, variant = classification.timings, classification.variant
        self.ended("answered", variant.name, timings.total_ns, admitted=True)
        exemplar, stages = self._exemplar(), self._stages
        self._budgets["met" if classification.budget_met else "missed"].inc()
        stages["decode"].observe(timings.decode_ns / NS_PER_S, exemplar)
        stages["queue"].observe(timings.queue_ns / NS_PER_S, exemplar)
        stages["preprocess"].observe(timings.preprocess_ns / NS_PER_S, exemplar)
        stages["inference"].observe(timings.inference_ns / NS_PER_S, exemplar)
        left_ns = classification.budget_ns - timings.decode_ns - timings.queue_ns
        self.slack.observe(max(0, left_ns) / classification.budget_ns)
        if classification.budget_met and variant.top1 is not None:
            self.accuracy.observe(variant.top1 / 100)
        best = variant.top1
        if classification.degraded_from is not None:
            self.degraded.inc()
            best = self._top1.get(classification.degraded_from)
        if best is not None and variant.top1 is not None:
            self.given_up.observe(max(0.0, best - variant.top1) / 100)

    def failed(self, error: Exception, *, admitted: bool, waited_ns: int) -> None:
        self.ended("failed" if admitted else "refused", NO_VARIANT, waited_ns, admitted=admitted)
        self._errors[kind_of(type(error))].inc()
        if isinstance(error, DeadlineExceeded):
            self._budgets["expired" if admitted else "refused"].inc()
        elif isinstance(error, Overloaded):
            self._budgets["overloaded"].inc()

    def ended(self, outcome: str, variant: str, waited_ns: int, *, admitted: bool) -> None:
        if admitted:
            self.admitted -= 1
        (self._ends.get((outcome, variant)) or self.requests.labels(outcome, variant)).inc()
        self._durations[outcome].observe(waited_ns / NS_PER_S, self._exemplar())


class _Runs:
    """Metrics whose unit is one run of a batch, and what waits for one."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.queued = self.running = 0
        # Asked for when somebody looks: to set a gauge takes a lock, and both change several times a request.
        queue_depth = Gauge("phiserve_queue_depth", "Decoded requests that wait for a worker", registry=registry)
        queue_depth.set_function(lambda: self.queued)
        in_flight = Gauge("phiserve_in_flight", "Requests whose run is under way", registry=registry)
        in_flight.set_function(lambda: self.running)
        self.runs = Counter(
            "phiserve_runs", "Runs that ended, by variant and how", ["variant", "result"], registry=registry
        )
        self.batch_size = Histogram(
            "phiserve_batch_size", "Images in a run", ["variant"], buckets=BATCH_SIZE_BUCKETS, registry=registry
        )
        self.forecast = Histogram(
            "phiserve_prediction_error_ratio",
            "Measured over planned latency of a run: above 1 the profile promised too much",
            ["variant"],
            buckets=FORECAST_BUCKETS,
            registry=registry,
        )

        self._of_variant: dict[str, tuple[Counter, Histogram, Histogram]] = {}

    def expect(self, variant: str) -> None:
        for result in RUN_RESULTS:
            self.runs.labels(variant, result)
        self._series(variant)

    def finished(self, plan: Plan, result: RunResult) -> None:
        runs, batch_size, forecast = self._of_variant.get(plan.variant) or self._series(plan.variant)
        runs.inc()
        batch_size.observe(len(plan.request_ids))
        measured_ns = result.preprocess_ns + result.inference_ns
        if plan.latency_ns > 0:
            forecast.observe(measured_ns / plan.latency_ns)

    def _series(self, variant: str) -> tuple[Counter, Histogram, Histogram]:
        series = self.runs.labels(variant, "finished"), self.batch_size.labels(variant), self.forecast.labels(variant)
        self._of_variant[variant] = series
        return series


class _Store:
    """Metrics whose unit is one version of the store."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.version = Info("phiserve_store", "The version of the store that is served", registry=registry)
        self.generation = Gauge(
            "phiserve_store_generation", "Versions of the store that this process has served", registry=registry
        )
        self.loaded_at = Gauge(
            "phiserve_store_loaded_timestamp_seconds", "When the version that is served took over", registry=registry
        )
        self.reloads = Counter(
            "phiserve_store_reloads", "Times the store was read again, by outcome", ["outcome"], registry=registry
        )
        for outcome in RELOAD_OUTCOMES:
            self.reloads.labels(outcome)

    def loaded(self, version: str) -> None:
        self.version.info({"version": version})
        self.generation.inc()
        self.loaded_at.set_to_current_time()
