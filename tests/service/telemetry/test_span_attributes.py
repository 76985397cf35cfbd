"""Names and attributes of spans: OpenTelemetry's conventions, and nothing made up by a caller in a name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from service.errors import DeadlineExceeded
from service.exchange import Ending, Exchange
from service.telemetry.span_attributes import of_answer, of_ending, of_exchange, of_failure, span_name
from tests.fakes.engine import classification
from tests.fakes.menus import MS


def exchange(method: str | None = "POST", path: str = "/classify", header: Callable[[str], str | None] | None = None):
    return Exchange("id", method, path, "10.0.0.1", header or (lambda _: None))


@pytest.mark.parametrize(
    ("found", "route", "name"),
    [
        (exchange(), "/classify", "POST /classify"),
        (exchange(path="/v2/models/anything/infer"), "/v2/models/{model}/infer", "POST /v2/models/{model}/infer"),
        (exchange(path="/made/up"), "", "POST"),
        (exchange(method="MADEUP"), "", "HTTP"),
        (exchange(method=None, path="/phiserve.v1.Classifier/Classify"), "", "phiserve.v1.Classifier/Classify"),
    ],
)
def test_names_are_few(found, route, name) -> None:
    """The route and not the path, known methods and not any: a backend groups by name."""
    assert span_name(found, route) == name


def test_an_unknown_method_is_told_beside_the_name() -> None:
    """`_OTHER`, with what was sent."""
    found = of_exchange(exchange(method="MADEUP"))
    assert (found["http.request.method"], found["http.request.method_original"]) == ("_OTHER", "MADEUP")
    assert "http.request.method_original" not in of_exchange(exchange())


def test_of_the_headers_only_the_agent_is_told() -> None:
    """Credentials, cookies and whatever else a caller sends are nobody's business."""
    found = of_exchange(exchange(header=lambda name: f"value of {name}"))
    assert [value for value in found.values() if str(value).startswith("value of")] == ["value of user-agent"]


@pytest.mark.parametrize(
    ("ending", "attributes"),
    [
        (Ending("200", is_error=False, is_fault=False), {"http.response.status_code": 200}),
        (Ending("404", is_error=True, is_fault=False), {"http.response.status_code": 404}),
        (Ending("500", is_error=True, is_fault=True), {"http.response.status_code": 500, "error.type": "500"}),
        (Ending(None, is_error=True, is_fault=False), {"error.type": "unanswered"}),
    ],
)
def test_the_ending_is_told_by_the_conventions(ending, attributes) -> None:
    """Only faults of the server are errors of its span; an exchange without an answer has no status."""
    assert of_ending(exchange(), ending) == attributes


def test_answers_and_failures_tell_what_was_decided() -> None:
    """Variant, budget, batch and what load took away; for a refusal, the budget that would have worked."""
    assert of_answer(classification(degraded_from="large")) == {
        "phiserve.outcome": "answered",
        "phiserve.variant": "small",
        "phiserve.budget_ms": 40.0,
        "phiserve.budget_met": True,
        "phiserve.batch_size": 3,
        "phiserve.degraded_from": "large",
    }
    refused = DeadlineExceeded("too late", smallest_feasible_budget_ns=9 * MS)
    assert of_failure("refused", None, refused) == {
        "phiserve.outcome": "refused",
        "phiserve.smallest_feasible_budget_ms": 9.0,
    }
