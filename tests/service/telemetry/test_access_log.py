"""The access log: a line for each exchange with an error, and for a share of the others."""

from __future__ import annotations

import contextvars
import json
import logging
from collections.abc import Iterator

import pytest

from service.errors import DeadlineExceeded
from service.exchange import Ending, Exchange
from service.telemetry import access_log
from service.telemetry.access_log import PATH_LENGTH_MAX, AccessLog
from service.telemetry.logs import JsonFormatter, bind_request_id, bind_trace
from tests.fakes.clock import FakeClock
from tests.fakes.engine import classification
from tests.fakes.menus import MS

GOOD, BAD = Ending("200", is_error=False, is_fault=False), Ending("504", is_error=True, is_fault=True)
UNANSWERED = Ending(None, is_error=True, is_fault=False)


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(JsonFormatter())
        self.found: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = json.loads(self.format(record))
        self.found.append({name: value for name, value in line.items() if name not in {"time", "level", "logger"}})


@pytest.fixture
def lines() -> Iterator[list[dict[str, object]]]:
    handler = _Lines()
    access_log.logger.addHandler(handler)
    yield handler.found
    access_log.logger.removeHandler(handler)


def exchange(path: str = "/classify", method: str | None = "POST") -> Exchange:
    return Exchange("id", method, path, "10.0.0.1", lambda name: f"secret {name}", query="secret=1")


def observe(share: float, ending: Ending, *happened, of: Exchange | None = None, draw: float = 0.5) -> None:
    """One exchange of 12 ms, in a context of its own as front ends see to."""

    def run() -> None:
        bind_request_id("order-66")
        bind_trace("a" * 32, "b" * 16)
        clock = FakeClock()
        log, found = AccessLog(share, clock.now_ns, lambda: draw), of or exchange()
        log.exchange_began(found)
        for event in happened:
            event(log)
        clock.advance(12 * MS)
        log.exchange_ended(found, ending)

    contextvars.copy_context().run(run)


def answered(log: AccessLog) -> None:
    log.request_settled(classification())


def refused(log: AccessLog) -> None:
    log.request_failed(DeadlineExceeded("x"), admitted=False, waited_ns=1)


def test_a_line_has_the_ids_and_what_became_of_the_picture(lines) -> None:
    """Method, path, status, time and client; variant, budget and batch of the answer; nothing of query or headers."""
    observe(1.0, GOOD, answered)
    assert lines == [
        {
            "message": "POST /classify 200 in 12.0 ms",
            "request_id": "order-66",
            "trace_id": "a" * 32,
            "span_id": "b" * 16,
            "method": "POST",
            "path": "/classify",
            "status": "200",
            "duration_ms": 12.0,
            "client": "10.0.0.1",
            "answered": 1,
            "variant": "small",
            "budget_ms": 40.0,
            "budget_met": True,
            "batch_size": 3,
        }
    ]


def test_an_error_is_told_by_its_kind(lines) -> None:
    """Counts of several pictures, and the kind of the last error among them."""
    observe(0.0, BAD, answered, refused, lambda log: log.request_cancelled(1))
    assert {name: lines[0][name] for name in ("status", "answered", "failed", "cancelled", "error")} == {
        "status": "504",
        "answered": 1,
        "failed": 1,
        "cancelled": 1,
        "error": "deadline_exceeded",
    }
    assert "variant" not in lines[0]


@pytest.mark.parametrize(
    ("share", "draw", "ending", "written"),
    [
        (0.0, 0.0, GOOD, 0),
        (0.0, 0.0, BAD, 1),
        (0.0, 0.9, UNANSWERED, 1),
        (0.25, 0.2, GOOD, 1),
        (0.25, 0.25, GOOD, 0),
        (1.0, 0.999, GOOD, 1),
    ],
)
def test_errors_are_always_written_and_others_by_their_share(lines, share, draw, ending, written) -> None:
    """A share of 0 writes errors alone, of 1 everything."""
    observe(share, ending, draw=draw)
    assert len(lines) == written


def test_who_left_is_unanswered(lines) -> None:
    """There was no status to tell."""
    observe(0.0, UNANSWERED)
    assert lines[0]["status"] == "unanswered"


def test_probes_are_not_written(lines) -> None:
    """Not even those answered with an error: an unready server says so every second."""
    observe(1.0, Ending("503", is_error=True, is_fault=True), of=exchange("/readyz"))
    assert lines == []


def test_a_path_is_cut(lines) -> None:
    """Callers make paths up; over gRPC it is the method."""
    observe(1.0, GOOD, of=exchange("/" + "a" * 10_000))
    observe(1.0, GOOD, of=exchange("/phiserve.v1.Classifier/Classify", method=None))
    assert len(str(lines[0]["path"])) == PATH_LENGTH_MAX + 1
    assert (lines[1]["method"], lines[1]["path"]) == ("gRPC", "/phiserve.v1.Classifier/Classify")


def test_it_is_written_whatever_level_all_else_is_logged_at() -> None:
    """`--access-log` alone decides: the root's level is for the rest."""
    assert access_log.logger.isEnabledFor(logging.INFO)
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        assert access_log.logger.isEnabledFor(logging.INFO)
    finally:
        root.setLevel(before)
