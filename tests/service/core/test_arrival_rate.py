"""Rates that forget."""

from __future__ import annotations

import random

import pytest

from service.core.arrival_rate import ArrivalRate, DecayedRate

NS_PER_S = 1_000_000_000


def test_a_steady_stream_gives_its_rate() -> None:
    """After several windows the rate is that of the stream, less the share of the prior."""
    rate = DecayedRate(NS_PER_S, prior_ns=NS_PER_S // 20)
    for step in range(2000):
        rate.advance(step * 5_000_000, exposed=True)
        rate.count()
    assert rate.per_ns * NS_PER_S == pytest.approx(200, rel=0.06)


def test_one_event_is_not_yet_a_rate() -> None:
    """A first event right at the start is weighed against the prior's quiet time, not against nothing."""
    rate = DecayedRate(NS_PER_S, prior_ns=NS_PER_S // 10)
    rate.advance(0, exposed=True)
    rate.count()
    assert rate.per_ns * NS_PER_S == pytest.approx(20)


def test_the_prior_weighs_less_the_more_is_known() -> None:
    """A rate seen for long is not biased by the quiet time assumed at first, however long that is."""
    rate = DecayedRate(NS_PER_S, prior_ns=NS_PER_S // 5)
    for step in range(1, 1001):
        rate.advance(step * NS_PER_S // 100, exposed=True)
        rate.count()
    assert rate.per_ns * NS_PER_S == pytest.approx(100, rel=0.01)


def test_unexposed_time_only_forgets() -> None:
    """Time in which no event could be seen changes the rate by no more than the weight of the prior."""
    rate = DecayedRate(NS_PER_S, prior_ns=1000)
    for step in range(1000):
        rate.advance(step * 10_000_000, exposed=True)
        rate.count()
    before = rate.per_ns
    rate.advance(10 * NS_PER_S + NS_PER_S, exposed=False)
    assert rate.per_ns == pytest.approx(before, rel=0.02)


def test_time_never_runs_backwards() -> None:
    """An observation that is older than the last one counts at the last one's time."""
    rate = DecayedRate(NS_PER_S, prior_ns=NS_PER_S)
    rate.advance(1000, exposed=True)
    rate.advance(500, exposed=True)
    rate.count()
    assert rate.per_ns > 0


def test_independent_arrivals_are_seen_at_their_rate_while_running() -> None:
    """Poisson arrivals at a server that runs a third of the time are estimated at their full rate."""
    rng = random.Random(3)
    rate = ArrivalRate(20 * NS_PER_S, prior_ns=NS_PER_S // 20)
    events = [(int(step * 30e6), "on") for step in range(2000)] + [
        (int(step * 30e6 + 10e6), "off") for step in range(2000)
    ]
    now_s = 0.0
    while now_s < 60:
        now_s += rng.expovariate(50)
        events.append((int(now_s * 1e9), "arrival"))
    for at_ns, kind in sorted(events):
        if kind == "arrival":
            rate.arrival(at_ns)
        else:
            rate.running(at_ns, anything=kind == "on")
    assert rate.per_ns(60 * NS_PER_S) * NS_PER_S == pytest.approx(50, rel=0.15)


def test_what_is_offered_counts_neither_bursts_twice_nor_clients_that_wait() -> None:
    """Bursts that come while runs go on are offered at their rate over time; who waits for answers offers nothing."""
    bursts, waiting = ArrivalRate(5 * NS_PER_S, prior_ns=1), ArrivalRate(5 * NS_PER_S, prior_ns=1)
    for step in range(200):
        at_ns = step * 100_000_000
        bursts.running(at_ns, anything=True)
        for arrival in range(5):
            bursts.arrival(at_ns + arrival * 1_000_000)
        bursts.running(at_ns + 20_000_000, anything=False)
        waiting.arrival(at_ns)
        waiting.running(at_ns, anything=True)
        waiting.running(at_ns + 90_000_000, anything=False)
    end_ns = 20 * NS_PER_S
    assert bursts.offered_per_ns(end_ns) * NS_PER_S == pytest.approx(50, rel=0.1)
    assert bursts.per_ns(end_ns) * NS_PER_S == pytest.approx(250, rel=0.1)
    assert waiting.offered_per_ns(end_ns) == 0.0


def test_the_rate_within_bursts_is_remembered_through_the_pauses_between_them() -> None:
    """The first arrival after a second of quiet is judged by the bursts before it, not as if they had never been."""
    rate = ArrivalRate(NS_PER_S // 2, prior_ns=NS_PER_S // 20)
    for step in range(20):
        at_ns = step * NS_PER_S
        rate.running(at_ns, anything=True)
        for arrival in range(10):
            rate.arrival(at_ns + arrival * 10_000_000)
        rate.running(at_ns + 100_000_000, anything=False)
    assert rate.per_ns(20 * NS_PER_S) * NS_PER_S > 50
    assert rate.offered_per_ns(20 * NS_PER_S) * NS_PER_S < 20
