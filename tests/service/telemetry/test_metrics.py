"""The Prometheus instrument: what the core tells it is what a scrape reads."""

from __future__ import annotations

import asyncio
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from service import errors
from service.core.request import Plan, RequestOptions, RunResult
from service.errors import PhiserveError
from service.telemetry.metrics import (
    BUDGET_RESULTS,
    DURATION_BUCKETS_S,
    OUTCOMES,
    RELOAD_OUTCOMES,
    PrometheusInstrument,
    create_registry,
)
from tests.fakes.engine import classification
from tests.fakes.event_loop import run_in_fake_time
from tests.fakes.menus import MS
from tests.fakes.runtime import FakeDecoder, build_engine

PLAN = Plan("small", 1, (7, 8, 9), latency_ns=10 * MS)


@pytest.fixture
def instrument() -> PrometheusInstrument:
    return PrometheusInstrument(create_registry("1.2.3"))


def scrape(instrument: PrometheusInstrument) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of the page, by name and labels, read with Prometheus' own parser."""
    body, _ = instrument.metrics_page()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def value(instrument: PrometheusInstrument, name: str, **labels: str) -> float | None:
    return scrape(instrument).get((name, tuple(sorted(labels.items()))))


def test_an_answer_counts_once_everywhere(instrument) -> None:
    """An in-time answer shows in requests, budget, duration, stages and accuracy, in seconds and ratios."""
    instrument.request_admitted()
    instrument.request_settled(classification(top1=75.5))
    assert value(instrument, "phiserve_requests_total", outcome="answered", variant="small") == 1
    assert value(instrument, "phiserve_budget_total", result="met") == 1
    assert value(instrument, "phiserve_request_duration_seconds_sum", outcome="answered") == pytest.approx(0.0090004)
    sums = {
        stage: value(instrument, "phiserve_stage_duration_seconds_sum", stage=stage)
        for stage in ("decode", "queue", "preprocess", "inference")
    }
    assert sums == pytest.approx({"decode": 0.001234567, "queue": 0.00025, "preprocess": 0.002, "inference": 0.005})
    assert value(instrument, "phiserve_served_accuracy_ratio_sum") == pytest.approx(0.755)
    assert value(instrument, "phiserve_admitted") == 0


def test_a_late_answer_is_a_missed_budget(instrument) -> None:
    """A late answer misses its budget and is left out of the mean serving accuracy."""
    instrument.request_admitted()
    instrument.request_settled(classification(budget_met=False))
    assert value(instrument, "phiserve_budget_total", result="missed") == 1
    assert value(instrument, "phiserve_budget_total", result="met") == 0
    assert value(instrument, "phiserve_served_accuracy_ratio_count") == 0


def test_unknown_accuracy_is_not_counted_as_zero(instrument) -> None:
    """A variant that nobody measured does not pull the mean down."""
    instrument.request_admitted()
    instrument.request_settled(classification(top1=None))
    assert value(instrument, "phiserve_served_accuracy_ratio_count") == 0


def test_degraded_answers_are_counted(instrument) -> None:
    """Only answers that load forced down count as degraded."""
    for degraded_from in (None, "large"):
        instrument.request_admitted()
        instrument.request_settled(classification(degraded_from=degraded_from))
    assert value(instrument, "phiserve_degraded_answers_total") == 1


def test_accuracy_given_up_is_what_load_cost_each_answer(instrument) -> None:
    """The difference to what an idle server would have used, as a ratio; 0 for an answer that lacks nothing."""
    instrument.variants_served({"small": 75.5, "large": 80.0})
    for degraded_from in (None, "large", None):
        instrument.request_admitted()
        instrument.request_settled(classification(top1=75.5, degraded_from=degraded_from))
    assert value(instrument, "phiserve_given_up_accuracy_ratio_count") == 3
    assert value(instrument, "phiserve_given_up_accuracy_ratio_sum") == pytest.approx(0.045)


@pytest.mark.parametrize(("top1", "better"), [(None, 80.0), (75.5, None)])
def test_accuracy_that_nobody_knows_is_not_given_up(instrument, top1, better) -> None:
    """An answer of, or compared with, a variant without a known accuracy is left out."""
    instrument.variants_served({"small": top1, "large": better})
    instrument.request_admitted()
    instrument.request_settled(classification(top1=top1, degraded_from="large"))
    assert value(instrument, "phiserve_given_up_accuracy_ratio_count") == 0


@pytest.mark.parametrize(
    ("error", "outcome", "reason", "result"),
    [
        (errors.DeadlineExceeded("x"), "refused", "deadline_exceeded", "refused"),
        (errors.DeadlineExceeded("x"), "failed", "deadline_exceeded", "expired"),
        (errors.Overloaded("x", retry_after_ns=1), "refused", "overloaded", "overloaded"),
        (errors.InvalidImage("x"), "failed", "invalid_image", None),
        (errors.InferenceFailed("x"), "failed", "inference_failed", None),
        (ZeroDivisionError("x"), "failed", "unexpected", None),
    ],
)
def test_failures_count_by_kind_and_by_where(instrument, error, outcome, reason, result) -> None:
    """Each failure counts under its outcome and kind, and under budgets only if time or room was the cause."""
    admitted = outcome == "failed"
    if admitted:
        instrument.request_admitted()
    instrument.request_failed(error, admitted=admitted, waited_ns=3 * MS)
    assert value(instrument, "phiserve_requests_total", outcome=outcome, variant="") == 1
    assert value(instrument, "phiserve_errors_total", reason=reason) == 1
    assert value(instrument, "phiserve_request_duration_seconds_sum", outcome=outcome) == pytest.approx(0.003)
    counted = {name: value(instrument, "phiserve_budget_total", result=name) for name in BUDGET_RESULTS}
    assert counted == {name: float(name == result) for name in BUDGET_RESULTS}
    assert value(instrument, "phiserve_admitted") == 0


def test_a_caller_who_left_is_cancelled(instrument) -> None:
    """A cancelled request ends being admitted and is neither an error nor a missed budget."""
    instrument.request_admitted()
    assert value(instrument, "phiserve_admitted") == 1
    instrument.request_cancelled(waited_ns=MS)
    assert value(instrument, "phiserve_admitted") == 0
    assert value(instrument, "phiserve_requests_total", outcome="cancelled", variant="") == 1
    assert sum(value(instrument, "phiserve_budget_total", result=name) for name in BUDGET_RESULTS) == 0


def test_runs_show_their_batch_and_how_well_they_were_predicted(instrument) -> None:
    """A finished run adds its batch size and measured over planned latency; a failed one is only counted."""
    instrument.run_finished(PLAN, RunResult((), preprocess_ns=3 * MS, inference_ns=9 * MS))
    instrument.run_failed(PLAN, RuntimeError("x"))
    assert value(instrument, "phiserve_batch_size_sum", variant="small") == 3
    assert value(instrument, "phiserve_prediction_error_ratio_sum", variant="small") == pytest.approx(1.2)
    assert value(instrument, "phiserve_prediction_error_ratio_bucket", variant="small", le="1.1") == 0
    assert value(instrument, "phiserve_prediction_error_ratio_bucket", variant="small", le="1.25") == 1
    for result in ("finished", "failed"):
        assert value(instrument, "phiserve_runs_total", variant="small", result=result) == 1


def test_queue_and_flight_show_the_latest_state(instrument) -> None:
    """The gauges hold what the core said last."""
    instrument.queue_changed(5, 2)
    instrument.queue_changed(3, 1)
    assert (value(instrument, "phiserve_queue_depth"), value(instrument, "phiserve_in_flight")) == (3, 1)


def test_series_exist_before_their_first_event(instrument) -> None:
    """Each budget result, error kind, stage, and outcome without a variant starts at zero."""
    for result in BUDGET_RESULTS:
        assert value(instrument, "phiserve_budget_total", result=result) == 0
    for outcome in OUTCOMES:
        assert value(instrument, "phiserve_request_duration_seconds_count", outcome=outcome) == 0
    reasons = {dict(labels)["reason"] for name, labels in scrape(instrument) if name == "phiserve_errors_total"}
    assert len(reasons) == len(PhiserveError.__subclasses__()) + 1
    assert "unexpected" in reasons
    for stage in ("decode", "queue", "preprocess", "inference"):
        assert value(instrument, "phiserve_stage_duration_seconds_count", stage=stage) == 0


def test_variants_exist_before_their_first_run(instrument) -> None:
    """Once it is told what is served, every series by variant is there at zero, failed runs included."""
    instrument.variants_served({"small": 70.0, "large": None})
    for name in ("small", "large"):
        assert value(instrument, "phiserve_requests_total", outcome="answered", variant=name) == 0
        assert value(instrument, "phiserve_batch_size_count", variant=name) == 0
        assert value(instrument, "phiserve_prediction_error_ratio_count", variant=name) == 0
        for result in ("finished", "failed"):
            assert value(instrument, "phiserve_runs_total", variant=name, result=result) == 0


@pytest.mark.parametrize(("budget_ms", "share"), [(40, 1 - 1.484567 / 40), (2, 1 - 1.484567 / 2), (1, 0)])
def test_slack_is_the_share_of_the_budget_that_waiting_left(instrument, budget_ms, share) -> None:
    """An answer counts what decoding and queueing left of its budget; one that began too late had nothing left."""
    instrument.request_admitted()
    instrument.request_settled(classification(budget_ns=budget_ms * MS))
    assert value(instrument, "phiserve_dispatch_slack_ratio_count") == 1
    assert value(instrument, "phiserve_dispatch_slack_ratio_sum") == pytest.approx(share)


def test_names_follow_the_conventions(instrument) -> None:
    """Every name of ours has the prefix, and none is in milliseconds, nanoseconds or percent."""
    instrument.request_admitted()
    instrument.request_settled(classification())
    body, content_type = instrument.metrics_page()
    names = re.findall(r"^# TYPE (\S+) ", body.decode(), flags=re.MULTILINE)
    ours = [name for name in names if not name.startswith(("process_", "python_"))]
    assert all(name.startswith("phiserve_") for name in ours)
    assert not [name for name in ours if re.search(r"_(ms|ns|milliseconds|nanoseconds|percent)(_|$)", name)]
    assert not [name for name in names if name.endswith("_created")]
    assert content_type.startswith("text/plain; version=0.0.4")


PROMETHEUS_ACCEPTS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
TRACE = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}


def exemplars(instrument: PrometheusInstrument) -> dict[tuple[str, str], dict[str, str]]:
    """Exemplars of the page in OpenMetrics, by the histogram's name and its first label's value."""
    body, content_type = instrument.metrics_page(PROMETHEUS_ACCEPTS)
    assert content_type == "application/openmetrics-text; version=1.0.0; charset=utf-8"
    return {
        (family.name, next(value for name, value in sample.labels.items() if name != "le")): sample.exemplar.labels
        for family in parse_openmetrics(body.decode())
        for sample in family.samples
        if sample.exemplar is not None
    }


def test_durations_show_a_trace_that_is_kept() -> None:
    """In OpenMetrics the request and each stage name the trace they were measured in; the classic page never does."""
    instrument = PrometheusInstrument(create_registry("1"), lambda: TRACE)
    instrument.request_settled(classification())
    instrument.request_failed(errors.Overloaded("x", retry_after_ns=1), admitted=False, waited_ns=MS)
    durations = [("phiserve_request_duration_seconds", outcome) for outcome in ("answered", "refused")]
    stages = [("phiserve_stage_duration_seconds", stage) for stage in ("decode", "queue", "preprocess", "inference")]
    assert exemplars(instrument) == dict.fromkeys(durations + stages, TRACE)
    classic, content_type = instrument.metrics_page("text/plain")
    assert content_type == "text/plain; version=0.0.4; charset=utf-8"
    assert TRACE["trace_id"] not in classic.decode()
    assert len(scrape(instrument)) > 0


def test_what_is_not_traced_is_no_exemplar(instrument) -> None:
    """Without a trace that is kept the page in OpenMetrics has the same samples as the classic one, and no exemplar."""
    instrument.request_admitted()
    instrument.request_settled(classification())
    assert exemplars(instrument) == {}
    body, _ = instrument.metrics_page(PROMETHEUS_ACCEPTS)
    samples = {
        (sample.name, tuple(sorted(sample.labels.items())))
        for family in parse_openmetrics(body.decode())
        for sample in family.samples
    }
    assert samples == set(scrape(instrument))


@given(accept=st.text(max_size=60) | st.text(max_size=20).map(lambda rest: "application/openmetrics-text" + rest))
def test_any_wish_gets_a_page(accept) -> None:
    """Whatever Accept says, the answer is one of the two pages, under one of two fixed content types."""
    body, content_type = PrometheusInstrument(CollectorRegistry()).metrics_page(accept)
    is_openmetrics = body.endswith(b"# EOF\n")
    assert content_type == (
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
        if is_openmetrics
        else "text/plain; version=0.0.4; charset=utf-8"
    )


def test_the_process_and_the_build_are_described(instrument) -> None:
    """The page tells the version, the interpreter and the process's memory."""
    names = {name for name, _ in scrape(instrument)}
    assert {"phiserve_build_info", "python_info", "python_gc_objects_collected_total"} <= names
    assert b'version="1.2.3"' in instrument.metrics_page()[0]


def test_registries_are_independent() -> None:
    """Two servers in one process do not share, or refuse, each other's metrics."""
    first, second = (PrometheusInstrument(CollectorRegistry()) for _ in range(2))
    first.queue_changed(5, 0)
    assert value(second, "phiserve_queue_depth") == 0


def test_buckets_reach_over_all_real_budgets() -> None:
    """Duration buckets rise from 1 ms to 10 s."""
    assert list(DURATION_BUCKETS_S) == sorted(set(DURATION_BUCKETS_S))
    assert (DURATION_BUCKETS_S[0], DURATION_BUCKETS_S[-1]) == (0.001, 10)


def test_a_bug_is_counted_and_leaves_nobody_inside(instrument) -> None:
    """An error that nobody foresaw ends its request like any other: counted, and admitted no more."""

    class Buggy(FakeDecoder):
        async def decode(self, image, resolution, deadline_ns):
            raise ZeroDivisionError

    engine = build_engine(instrument=instrument, decoder=Buggy())

    async def serve() -> None:
        with pytest.raises(ZeroDivisionError):
            await engine.infer(b"a", RequestOptions(), received_ns=engine.now_ns())

    run_in_fake_time(serve())
    assert value(instrument, "phiserve_errors_total", reason="unexpected") == 1
    assert value(instrument, "phiserve_requests_total", outcome="failed", variant="") == 1
    assert value(instrument, "phiserve_admitted") == 0


def test_the_real_core_adds_up(instrument) -> None:
    """Over the real engine every request ends under one outcome and nothing stays admitted."""
    engine = build_engine(instrument=instrument)

    async def serve() -> None:
        images = [b"a", b"b", b"text", b"broken", b"poison"]
        options = [RequestOptions(budget_ns=500 * MS)] * len(images) + [RequestOptions(budget_ns=MS)]
        calls = [
            engine.infer(image, option, received_ns=engine.now_ns())
            for image, option in zip([*images, b"c"], options, strict=True)
        ]
        await asyncio.gather(*calls, return_exceptions=True)

    run_in_fake_time(serve())
    samples = scrape(instrument)
    ended = {labels: count for (name, labels), count in samples.items() if name == "phiserve_requests_total"}
    assert sum(ended.values()) == 6
    assert value(instrument, "phiserve_admitted") == 0
    assert value(instrument, "phiserve_errors_total", reason="invalid_image") == 2
    assert value(instrument, "phiserve_budget_total", result="refused") == 1
    assert value(instrument, "phiserve_errors_total", reason="inference_failed") >= 1
    assert value(instrument, "phiserve_queue_depth") == 0


def test_the_version_that_serves_is_named_and_reloads_are_counted(instrument) -> None:
    """One version at a time, how many there were, since when, and what became of each reload, from 0 on."""
    for outcome in RELOAD_OUTCOMES:
        assert value(instrument, "phiserve_store_reloads_total", outcome=outcome) == 0
    instrument.store_loaded("aaa", {"lite0": 75.1})
    instrument.store_loaded("bbb", {"lite0": 75.1, "lite2": 77.6})
    instrument.reload_ended("loaded")
    assert value(instrument, "phiserve_store_info", version="bbb") == 1
    assert value(instrument, "phiserve_store_info", version="aaa") is None
    assert value(instrument, "phiserve_store_generation") == 2
    assert value(instrument, "phiserve_store_loaded_timestamp_seconds") > 1_700_000_000
    assert value(instrument, "phiserve_store_reloads_total", outcome="loaded") == 1
    assert value(instrument, "phiserve_runs_total", variant="lite2", result="finished") == 0
