"""The open loop: requests leave when due whatever comes back, and latency counts from when they were due."""

from __future__ import annotations

import asyncio

import pytest

from benchmarks.http_connection import ConnectionPool, get_bytes, loopback_address
from benchmarks.load_generator import NO_ANSWER, NOT_SENT, replay, saturate
from benchmarks.traffic import NS_PER_MS, ScheduledRequest
from tests.benchmarks.http_server import ok, scripted
from tests.fakes.patience import RISING_S


def due(*at_ms, budget_ms=1000):
    return [ScheduledRequest(at * NS_PER_MS, budget_ms * NS_PER_MS, index) for index, at in enumerate(at_ms)]


def replayed(respond, requests, *, in_flight_max=16):
    async def run():
        async with scripted(respond) as (url, _):
            pool = ConnectionPool(loopback_address(url), in_flight_max)
            outcomes = await replay(pool, requests, lambda request: get_bytes(pool.address, f"/{request.photograph}"))
            pool.close()
            return outcomes

    return asyncio.run(run())


def test_a_stalled_server_gets_every_request_that_falls_due():
    """The server answers nobody until the last request is there: a loop that waited for answers would never end."""
    arrived = 0
    everyone = asyncio.Event()

    async def respond(target):
        nonlocal arrived
        arrived += 1
        if arrived == 5:
            everyone.set()
        await everyone.wait()
        return [ok(target)]

    outcomes = replayed(respond, due(0, 2, 4, 6, 8))
    assert [outcome.body for outcome in outcomes] == [b"/0", b"/1", b"/2", b"/3", b"/4"]
    assert [outcome.status for outcome in outcomes] == [200] * 5
    last_sent_ns = outcomes[-1].sent_ns
    assert all(outcome.ended_ns >= last_sent_ns for outcome in outcomes)
    assert outcomes[0].latency_ns >= 8 * NS_PER_MS


def test_requests_are_never_sent_early_and_latency_counts_from_when_they_were_due():
    """Being late oneself is part of the latency: from due = from sent + lag."""

    async def respond(_):
        return [ok()]

    for outcome in replayed(respond, due(0, 0, 3, 7)):
        assert outcome.send_lag_ns >= 0
        assert outcome.latency_ns == outcome.latency_from_sent_ns + outcome.send_lag_ns
        assert outcome.latency_from_sent_ns > 0


def test_the_bound_on_requests_under_way_holds():
    """A request that falls due when the bound is reached is not sent, and is reported so."""
    overdue = asyncio.Event()
    arrived = []

    async def respond(target):
        arrived.append(target)
        if len(arrived) == 2:
            asyncio.get_running_loop().call_later(0.05, overdue.set)
        await overdue.wait()
        return [ok()]

    outcomes = replayed(respond, due(0, 0, 1), in_flight_max=2)
    assert [outcome.status for outcome in outcomes] == [200, 200, NOT_SENT]
    assert len(arrived) == 2


def test_a_broken_connection_is_an_outcome():
    """What the server drops is `NO_ANSWER`; the other requests are not touched."""

    async def respond(target):
        return [b""] if target == b"/1" else [ok()]

    outcomes = replayed(respond, due(0, 1, 2))
    assert [outcome.status for outcome in outcomes] == [200, NO_ANSWER, 200]


def saturated(respond, duration_s=0.1):
    async def run():
        async with scripted(respond) as (url, server):
            pool = ConnectionPool(loopback_address(url), 4)
            message = get_bytes(pool.address, "/")
            rate = await saturate(pool, [message], concurrency=3, warmup_s=0.02, duration_s=duration_s)
            pool.close()
            return rate, server

    return asyncio.run(run())


def test_saturation_keeps_every_caller_busy():
    """As many requests are under way as there are callers, and the rate is what was answered by the second."""
    under_way, most, answered = 0, 0, 0

    async def respond(_):
        nonlocal under_way, most, answered
        under_way += 1
        most = max(most, under_way)
        # Until all callers have had their turn, nobody is answered.
        for _ in range(20):
            await asyncio.to_thread(int)
        under_way -= 1
        answered += 1
        return [ok()]

    for duration_s in RISING_S:
        under_way, most, answered = 0, 0, 0
        rate, server = saturated(respond, duration_s)
        if rate > 0:  # the time was enough for an answer
            break
    assert most == 3
    assert server.connections == 3
    assert 0 < rate * duration_s <= answered


def test_saturation_counts_no_refusals():
    """An answer other than 200 ends the measurement with what the server said."""

    async def respond(_):
        return [ok(b"too late", status=504)]

    with pytest.raises(ExceptionGroup) as caught:
        saturated(respond)
    assert "504" in str(caught.value.exceptions[0])
    assert "too late" in str(caught.value.exceptions[0])
