"""The retry machine on a clock of the test's own: bounded by budget, count and kind of failure, whatever happens."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from phiserve import (
    ConnectionFailed,
    DeadlineExceeded,
    InferenceFailed,
    InvalidImage,
    NotReady,
    Overloaded,
    PhiserveError,
    RetryPolicy,
    TimedOut,
    UnexpectedAnswer,
)
from phiserve.errors import ERROR_BY_SLUG
from phiserve.retry import READY_PATIENCE, UNTIL_READY, Pause, Retries, Send, is_transient, patience

MS = 1_000_000
SECOND = 1000 * MS
PATIENCE = patience(grace_s=10.0, total_s=60.0)
REFUSED = ConnectionFailed("refused")

TRANSIENT = (
    st.builds(ConnectionFailed, st.just("reset"))
    | st.builds(NotReady, st.just("draining"))
    | st.builds(Overloaded, st.just("full"), retry_after_s=st.none() | st.floats(0, 10))
    | st.builds(UnexpectedAnswer, st.just("proxy"), status=st.sampled_from([429, 503]))
)
FINAL = (
    st.sampled_from([kind for kind in ERROR_BY_SLUG.values() if kind not in (NotReady, Overloaded)]).map(
        lambda kind: kind("no")
    )
    | st.just(TimedOut("silent"))
    | st.just(ConnectionFailed("not trusted", is_transient=False))
    | st.builds(UnexpectedAnswer, st.just("proxy"), status=st.sampled_from([0, 200, 302, 404, 500, 502, 504]))
)
POLICIES = st.builds(
    RetryPolicy,
    attempts_max=st.integers(1, 6),
    backoff_ms_initial=st.floats(0, 100),
    backoff_ms_max=st.floats(0, 1000),
    pause_ms_max=st.floats(0, 5000),
)


@dataclass
class Run:
    """Plays a call against a script of failures, each with the time the attempt took; then there is an answer."""

    retries: Retries
    script: list[tuple[PhiserveError, int]]
    budget_ns: int | None = None
    is_late_allowed: bool = False
    now_ns: int = 5 * SECOND
    sent: list[tuple[int, Send]] = field(default_factory=list)
    paused_ns: list[int] = field(default_factory=list)

    def play(self) -> PhiserveError | None:
        """What the call ended with; None is an answer."""
        call = self.retries.begin(self.now_ns, budget_ns=self.budget_ns, is_late_allowed=self.is_late_allowed)
        outcomes = iter(self.script)
        while True:
            try:
                action = call.next(self.now_ns)
            except PhiserveError as error:
                return error
            if isinstance(action, Pause):
                self.paused_ns.append(action.duration_ns)
                self.now_ns += action.duration_ns
                continue
            self.sent.append((self.now_ns, action))
            failure = next(outcomes, None)
            if failure is None:
                call.answered()
                return None
            self.now_ns += failure[1]
            call.failed(failure[0])


def retries(policy: RetryPolicy | None = None, random: float = 0.5) -> Retries:
    return Retries(policy or RetryPolicy(), PATIENCE, lambda: random)


@given(
    policy=POLICIES,
    random=st.floats(0, 1, exclude_max=True),
    script=st.lists(st.tuples(TRANSIENT | FINAL, st.integers(0, 2 * SECOND)), max_size=12),
    budget_ns=st.integers(1, 10 * SECOND),
    late=st.booleans(),
)
def test_a_budget_is_never_exceeded(policy, random, script, budget_ns, late) -> None:
    """Every attempt begins inside the budget and asks for no more than is left; every pause ends inside it."""
    run = Run(retries(policy, random), script, budget_ns, late)
    started_ns = run.now_ns
    run.play()
    for at_ns, send in run.sent:
        assert at_ns - started_ns < budget_ns
        assert 0 < send.budget_ns <= budget_ns - (at_ns - started_ns)
        assert send.budget_ns < send.timeout_ns
        assert late or at_ns + send.timeout_ns <= started_ns + budget_ns + PATIENCE.grace_ns
    assert sum(run.paused_ns) < budget_ns


@given(
    policy=POLICIES,
    script=st.lists(st.tuples(TRANSIENT | FINAL, st.integers(0, SECOND)), max_size=12),
    budget_ns=st.none() | st.integers(1, 10 * SECOND),
)
def test_every_call_ends_and_what_is_unsafe_is_not_sent_again(policy, script, budget_ns) -> None:
    """At most `attempts_max` are sent, none after a failure that is not transient, and the last failure is raised."""
    run = Run(retries(policy), script, budget_ns)
    end = run.play()
    assert 1 <= len(run.sent) <= policy.attempts_max
    failures = [error for error, _ in script[: len(run.sent)]]
    assert all(is_transient(error) for error in failures[: len(run.sent) - 1])
    if end is None:
        assert len(failures) == len(run.sent) - 1
    else:
        assert end is failures[-1]


@pytest.mark.parametrize("error", [REFUSED, NotReady("draining"), Overloaded("full"), UnexpectedAnswer("", status=503)])
def test_what_is_transient_is_sent_again_with_what_is_left(error) -> None:
    """The first attempt asks for the budget as it was given, the second for the rest of it."""
    run = Run(retries(), [(error, 30 * MS)], budget_ns=100 * MS)
    assert run.play() is None
    (_, first), (_, second) = run.sent
    assert (first.budget_ns, second.budget_ns) == (100 * MS, 60 * MS)  # 30 ms lost, 10 ms paused
    assert second.timeout_ns == 60 * MS + PATIENCE.grace_ns


@pytest.mark.parametrize(
    "error", [InvalidImage("cut off"), DeadlineExceeded("too tight"), InferenceFailed("failed"), TimedOut("silent")]
)
def test_what_would_end_the_same_is_not_sent_again(error) -> None:
    """Faults of the request, budgets that cannot be met, failures of the runtime and silences are final."""
    run = Run(retries(), [(error, MS)], budget_ns=SECOND)
    assert run.play() is error
    assert len(run.sent) == 1


def test_pauses_grow_and_are_random_below_their_bound() -> None:
    """The n-th pause is a random share of the n-th power of two of the first bound, up to the largest bound."""
    policy = RetryPolicy(attempts_max=5, backoff_ms_initial=20, backoff_ms_max=100)
    run = Run(retries(policy, random=0.75), [(REFUSED, 0)] * 4)
    assert run.play() is None
    assert run.paused_ns == [15 * MS, 30 * MS, 60 * MS, 75 * MS]


def test_a_server_that_names_a_time_is_not_asked_before_it() -> None:
    """Retry-After is waited for whole, with the jitter on top of it, so that not all come back at once."""
    run = Run(retries(), [(Overloaded("full", retry_after_s=0.3), 0)])
    assert run.play() is None
    assert run.paused_ns == [310 * MS]


@pytest.mark.parametrize(("retry_after_s", "budget_ns"), [(0.3, 200 * MS), (6.0, None)])
def test_a_wait_that_is_too_long_is_not_begun(retry_after_s, budget_ns) -> None:
    """Beyond the budget, or beyond `pause_ms_max` without one, the refusal is raised at once with what it said."""
    refusal = Overloaded("full", retry_after_s=retry_after_s)
    run = Run(retries(), [(refusal, MS)], budget_ns)
    assert run.play() is refusal
    assert run.paused_ns == []


def test_a_pause_that_lasted_too_long_sends_nothing() -> None:
    """A process that was stopped while it paused finds its budget gone and raises the failure it had."""
    call = retries().begin(0, budget_ns=100 * MS)
    assert isinstance(call.next(0), Send)
    call.failed(REFUSED)
    assert call.next(MS) == Pause(10 * MS)
    with pytest.raises(ConnectionFailed):
        call.next(100 * MS)


def test_retries_stop_while_most_calls_fail_and_come_back_with_answers() -> None:
    """After five failures in a row no call is retried; fifty answers later they are again."""
    shared = retries()
    attempts = []
    for _ in range(4):
        run = Run(shared, [(REFUSED, 0)] * 3)
        assert run.play() is REFUSED
        attempts.append(len(run.sent))
    assert attempts == [3, 2, 1, 1]
    for _ in range(50):
        assert Run(shared, []).play() is None
    run = Run(shared, [(REFUSED, 0)])
    assert run.play() is None
    assert len(run.sent) == 2


def test_late_answers_are_waited_for_beyond_the_budget() -> None:
    """With `on_miss="late"` the budget no longer says how long the server may be silent."""
    for late, timeout_ns in ((False, SECOND + PATIENCE.grace_ns), (True, PATIENCE.total_ns)):
        run = Run(retries(), [], SECOND, late)
        run.play()
        assert run.sent[0][1].timeout_ns == timeout_ns
    run = Run(retries(), [], 90 * SECOND, is_late_allowed=True)
    run.play()
    assert run.sent[0][1].timeout_ns == 90 * SECOND + PATIENCE.grace_ns


def test_waiting_for_a_server_asks_until_the_time_is_over() -> None:
    """Not three times but as often as it takes, ever slower, and the last reason is raised."""
    waiting = Retries(UNTIL_READY, READY_PATIENCE, lambda: 0.999)
    run = Run(waiting, [(REFUSED, 0)] * 1000, budget_ns=30 * SECOND)
    started_ns = run.now_ns
    assert run.play() is REFUSED
    assert 30 <= len(run.sent) <= 60
    assert 28 * SECOND < run.now_ns - started_ns < 30 * SECOND
    assert max(run.paused_ns) < SECOND
    assert all(send.timeout_ns > SECOND for _, send in run.sent)


@pytest.mark.parametrize(
    "arguments", [{"attempts_max": 0}, {"backoff_ms_initial": -1}, {"pause_ms_max": float("inf")}], ids=str
)
def test_a_policy_that_could_not_end_is_refused(arguments) -> None:
    """Counts below one and times that are none are errors where they are written."""
    with pytest.raises(ValueError, match=next(iter(arguments))):
        RetryPolicy(**arguments)


@pytest.mark.parametrize(("grace_s", "total_s"), [(-1.0, 1.0), (1.0, 0.0), (float("nan"), 1.0), (1.0, float("inf"))])
def test_patience_without_an_end_is_refused(grace_s, total_s) -> None:
    """Neither a negative grace nor endless patience can be asked for."""
    with pytest.raises(ValueError, match="patience"):
        patience(grace_s, total_s)
