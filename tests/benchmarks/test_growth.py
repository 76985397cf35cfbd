"""Steps of growth: figures of answers alone, shares of all, and each step beside the one before within its round."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from anyio.from_thread import start_blocking_portal

from benchmarks import growth_steps
from benchmarks.growth import overloaded
from benchmarks.growth_report import Growth, document, growth_of
from benchmarks.growth_steps import Load, Step, by_queue, step
from benchmarks.http_connection import get_bytes
from benchmarks.load_generator import Outcome
from benchmarks.traffic import NS_PER_MS, ScheduledRequest
from tests.benchmarks.http_server import ok, scripted
from tests.fakes.patience import RISING_S


def outcome(sent_ms: int, ended_ms: int, status: int = 200, budget_ms: int = 100) -> Outcome:
    request = ScheduledRequest(sent_ms * NS_PER_MS, budget_ms * NS_PER_MS, 0)
    return Outcome(request, sent_ms * NS_PER_MS, ended_ms * NS_PER_MS, status, b"")


@contextmanager
def scripted_server(respond) -> Iterator[str]:
    """A scripted server on a loop and a thread of its own, since who measures blocks its thread."""
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(scripted(respond)) as (url, _):
        yield url


def test_a_step_counts_answers_and_shares_of_all() -> None:
    """Refusals have no part in rate and latency, and are not in time; nor is what came after its budget."""
    ended = [(200, 10 * NS_PER_MS), (200, 20 * NS_PER_MS), (200, 90 * NS_PER_MS), (504, 1 * NS_PER_MS)]
    assert step(8, ended, duration_s=2.0, budget_s=0.05) == Step(8, 1.5, 20.0, 90.0, 0.5)


def test_growth_is_taken_within_rounds() -> None:
    """A round that was slower as a whole doubles as the others do: noise between rounds cancels."""
    quick, slow = [Step(1, 10, 5, 5, 1), Step(2, 20, 5, 5, 1)], [Step(1, 4, 5, 5, 1), Step(2, 8, 5, 5, 1)]
    assert growth_of([*quick, *slow, *quick], lambda each: each.per_s) == ["–", "× 2.00"]


def test_requests_are_sorted_by_how_many_were_under_way() -> None:
    """Who ended before does not count; a place is the latency over those ahead and oneself; refusals stand apart."""
    rows = by_queue([outcome(0, 10), outcome(1, 20), outcome(2, 32), outcome(15, 16, status=429)], (0, 2))
    assert [(row.ahead, row.answered, row.refused) for row in rows] == [(0, 2, 0), (2, 1, 1)]
    assert rows[0].place_ms == 9.5
    assert (rows[1].place_ms, rows[1].p99_ms, rows[1].refusal_p99_ms) == (10.0, 30.0, 1.0)


def test_overload_is_judged_by_answers_and_by_all() -> None:
    """Of four requests two are answered, one of them late: a quarter of all and half of the answers are in time."""
    found = overloaded(2.0, [outcome(0, 50), outcome(0, 150), outcome(0, 3, 504), outcome(0, 5, 504)], [1.0, 2.0], 0.5)
    assert (found.in_time_per_s, found.in_time, found.in_time_of_answers, found.over_budget_p99) == (
        2.0,
        0.25,
        0.5,
        1.5,
    )
    assert (found.refusal_p50_ms, found.refusal_p99_ms, found.livez_p50_ms) == (3.0, 5.0, 1.0)


@pytest.mark.parametrize(("status", "in_time"), [(200, 1.0), (504, 0.0)])
def test_callers_of_a_closed_loop_turn_through_their_pictures(monkeypatch, status, in_time) -> None:
    """Every picture is asked for, by as many callers as were wanted, and who is refused counts among all."""
    monkeypatch.setattr(growth_steps, "WARM_UP_S", 0.0)
    asked = set()

    async def respond(target: bytes) -> list[bytes]:
        asked.add(target)
        return [ok(status=status)]

    with scripted_server(respond) as url:
        load = Load(url, lambda address, request: get_bytes(address, f"/{request.photograph}"))
        for duration_s in RISING_S:
            found = load.closed_loop(3, callers=3, duration_s=duration_s, budget_s=60.0, turns=3)
            if found.per_s > 0 or status != 200:  # the time was enough for an answer
                break
    assert asked == {b"/0", b"/1", b"/2"}
    assert (found.at, found.in_time) == (3, in_time)


def test_the_event_loop_is_probed_while_requests_are_offered() -> None:
    """Both come back: an outcome for each request, and how long short questions to `/livez` took meanwhile."""
    targets = []

    async def respond(target: bytes) -> list[bytes]:
        targets.append(target)
        return [ok()]

    requests = [ScheduledRequest(index * 20 * NS_PER_MS, 1000 * NS_PER_MS, index) for index in range(10)]
    with scripted_server(respond) as url:
        load = Load(url, lambda address, request: get_bytes(address, f"/{request.photograph}"))
        outcomes, livez_ms = load.offer(requests)
    assert [each.status for each in outcomes] == [200] * 10
    assert targets.count(b"/livez") == len(livez_ms) > 0
    assert min(livez_ms) > 0


def test_the_report_has_every_ladder() -> None:
    """Each table shows its steps, and the multiple of the step before."""
    ladder = [Step(1, 10, 5, 8, 1), Step(2, 20, 6, 12, 1)]
    pictures = [Step(0.1, 10, 5, 8, 1), Step(1.0, 5, 20, 40, 0.5)]
    found = Growth(
        capacity_per_s=20.0,
        pinned=ladder,
        by_budget=ladder,
        alone=pictures,
        several=pictures,
        file_bytes={0.1: 20_000, 1.0: 200_000},
        overloads=[overloaded(2.0, [outcome(0, 50), outcome(0, 3, 504)], [1.0], 2.0)],
        queue=by_queue([outcome(0, 10), outcome(1, 20), outcome(2, 32)], (0, 2)),
        filling_livez_ms=[1.0, 3.0],
    )
    text = document(found, "command")
    assert "| 2 | 20.0 | × 2.00 | 6.0 | 12.0 | × 1.50 | 0.12 |" in text
    assert "| 1 | 0.20 | 20.0 | 40.0 | × 10.00 | × 4.00 | 5.0 | × 2.00 | 50.0 |" in text
    assert "| 2 | 0.5 | – | 50.0 | 100.0 | 0.50 | 3.0 | 3.0 | 1.0 | 1.0 |" in text
    assert "took 1.0 ms at the median, 3.0 ms at p99" in text
