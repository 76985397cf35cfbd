"""The REST wire as the client reads it, against what the server writes, and against what nobody should."""

from __future__ import annotations

from dataclasses import asdict

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiserve import http_wire
from phiserve.call_options import CallOptions
from phiserve.errors import ERROR_BY_SLUG, InvalidArgument, Overloaded, ServerError, UnexpectedAnswer
from phiserve.results import Classification
from service import errors as service_errors
from service.frontends import http_problems, rest_answer
from service.frontends.status_codes import INTERNAL, STATUS_BY_ERROR, wire_status
from tests.fakes.engine import ScriptedEngine, classification
from tests.fakes.menus import MS

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


def dumped(value: object) -> bytes:
    """`value` as JSON; what JSON of 64 bits cannot hold becomes an empty list."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return b"[]"


ANSWER = rest_answer.answer(classification(top_k=2, degraded_from="large"))


@pytest.mark.parametrize("given", [classification(top_k=3), classification(top1=None, trained=False, wnids=False)])
def test_answers_come_through_whole(given) -> None:
    """What the server writes is read field by field, and written again is the same JSON."""
    written = rest_answer.answer(given)
    found = http_wire.classification(200, {}, orjson.dumps(written))
    assert orjson.loads(orjson.dumps(asdict(found))) == written
    assert found.best is found.predictions[0]


def test_the_menu_is_read() -> None:
    """Every variant of the server, in its order, with its accuracy or None."""
    found = http_wire.variants(200, {}, orjson.dumps(rest_answer.menu(ScriptedEngine())))
    assert [(row.name, row.top1, row.trained) for row in found] == [("large", 80.0, True), ("unknown", None, False)]


def test_every_error_of_the_server_is_known() -> None:
    """Names, titles and statuses are those of the server's own table, and none is missing on either side."""
    rows = {row.slug: row for row in (*STATUS_BY_ERROR.values(), INTERNAL)}
    assert rows.keys() | {"stale-frame"} == ERROR_BY_SLUG.keys()  # which is of streams, and gRPC's alone
    for slug, row in rows.items():
        assert (ERROR_BY_SLUG[slug].status, ERROR_BY_SLUG[slug].title) == (row.http, row.title)
    for error, row in STATUS_BY_ERROR.items():
        assert ERROR_BY_SLUG[row.slug].__name__ == error.__name__


ERRORS = [
    service_errors.DeadlineExceeded("too tight", smallest_feasible_budget_ns=12 * MS),
    service_errors.DeadlineExceeded("too tight"),
    service_errors.Overloaded("full", retry_after_ns=350 * MS),
    RuntimeError("a bug"),
    *(
        kind("no")
        for kind in STATUS_BY_ERROR
        if kind not in (service_errors.DeadlineExceeded, service_errors.Overloaded)
    ),
]


@pytest.mark.parametrize("error", ERRORS, ids=repr)
def test_errors_come_through_whole(error) -> None:
    """The class, the detail, what would have worked and the request's id; written again it is the same problem."""
    written = http_problems.problem(error, "request/7")
    response = http_problems.problem_response(error, "request/7")
    with pytest.raises(ERROR_BY_SLUG[wire_status(error).slug]) as raised:
        http_wire.classification(response.status_code, response.headers, bytes(response.body))
    assert raised.value.request_id == "request/7"
    assert raised.value.problem() == written


@pytest.mark.parametrize(
    ("headers", "seconds"), [({}, None), ({"retry-after": "7"}, 7.0), ({"retry-after": "Wed, 21 Oct 2015"}, None)]
)
def test_a_header_says_when_to_come_again_if_the_body_does_not(headers, seconds) -> None:
    """A proxy that wrote the body anew left the header; a date in it is not counted with."""
    body = orjson.dumps({"type": "/problems/overloaded", "detail": "full"})
    with pytest.raises(Overloaded) as raised:
        http_wire.classification(429, headers, body)
    assert raised.value.retry_after_s == seconds


@pytest.mark.parametrize("read", [http_wire.classification, http_wire.variants])
@given(status=st.sampled_from([200, 204, 301, 400, 404, 429, 503]), body=st.binary() | JSON.map(dumped))
def test_anything_else_is_an_error_of_the_tree(read, status, body) -> None:
    """Whatever bytes come under whatever status, the caller gets a ServerError and never a traceback of ours."""
    with pytest.raises(ServerError) as raised:
        read(status, {}, body)
    assert isinstance(raised.value, UnexpectedAnswer)
    assert raised.value.status == status
    assert f"HTTP {status}" in raised.value.detail


@given(name=st.sampled_from(sorted(ANSWER)), value=JSON)
def test_an_answer_with_a_wrong_member_is_read_or_refused(name, value) -> None:
    """One member replaced by anything is a classification still, or an UnexpectedAnswer."""
    try:
        found = http_wire.classification(200, {}, dumped(ANSWER | {name: value}))
    except UnexpectedAnswer:
        return
    assert isinstance(found, Classification)


def test_an_answer_without_a_member_is_refused() -> None:
    """Half an answer is none."""
    for name in ANSWER:
        with pytest.raises(UnexpectedAnswer):
            http_wire.classification(200, {}, orjson.dumps({k: v for k, v in ANSWER.items() if k != name}))


def test_what_is_not_asked_is_not_in_the_query() -> None:
    """Defaults are the server's own."""
    assert http_wire.query(CallOptions(), None) == {}
    asked = CallOptions(
        budget_ms=12.5, top_k=3, variant="b3", min_accuracy=80, target_ms=10.0, priority=9, on_miss="late"
    )
    assert http_wire.query(asked, asked.budget_ns) == {
        "budget_ms": "12.5",
        "top_k": "3",
        "variant": "b3",
        "min_accuracy": "80",
        "target_ms": "10.0",
        "priority": "9",
        "on_miss": "late",
    }
    assert http_wire.query(asked, 3 * MS)["budget_ms"] == "3.0"


@pytest.mark.parametrize(
    "arguments",
    [{"budget_ms": 0}, {"budget_ms": float("nan")}, {"target_ms": -1.0}, {"on_miss": "whenever"}],
    ids=str,
)
def test_options_that_no_clock_can_count_with_are_refused_unsent(arguments) -> None:
    """They are InvalidArgument, as if the server had said so."""
    with pytest.raises(InvalidArgument, match=next(iter(arguments))):
        CallOptions(**arguments)
