"""When a call is tried again, as a state machine without I/O: times go in, and what to do next comes out.

It reads no clock, sleeps nowhere and sends nothing: `Client` and `AsyncClient` perform what it says. Classifying is
idempotent, so what failed before there was an answer may be sent again, as long as that is inside the call's budget.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from phiserve.call_options import NS_PER_MS
from phiserve.errors import ConnectionFailed, NotReady, Overloaded, PhiserveError, UnexpectedAnswer

NS_PER_S = 1_000_000_000

_TRANSIENT_STATUSES = frozenset({429, 503})
"""Of what is not phiserve, a load balancer for instance: those with which HTTP itself invites to come again."""

_DOUBLINGS_MAX = 60
"""Beyond any ceiling, and still a number."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how patiently.

    `attempts_max` counts the first one; 1 switches retries off. The pause before the n-th retry is random between 0
    and the smaller of `backoff_ms_initial` · 2^(n-1) and `backoff_ms_max` ("full jitter": M. Brooker, Exponential
    Backoff And Jitter, AWS 2015), on top of what the server asked for. A server that asks for more than
    `pause_ms_max` gets no retry: a caller that wants to wait so long should know of it.
    """

    attempts_max: int = 3
    backoff_ms_initial: float = 20.0
    backoff_ms_max: float = 1000.0
    pause_ms_max: float = 5000.0
    is_throttled: bool = True

    def __post_init__(self) -> None:
        """Refuse what could not end or could not pause."""
        if self.attempts_max < 1:
            raise ValueError(f"attempts_max must be at least 1, which is no retry; got {self.attempts_max}")
        for name in ("backoff_ms_initial", "backoff_ms_max", "pause_ms_max"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be a number of milliseconds, at least 0; got {getattr(self, name)}")


UNTIL_READY = RetryPolicy(attempts_max=2**31, backoff_ms_initial=50.0, is_throttled=False)
"""For waiting until a server is there: as often as the time allows, twenty times a second at first, then once."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long silence is borne: `grace_ns` beyond a budget, `total_ns` for a call without one."""

    grace_ns: int
    total_ns: int


def patience(grace_s: float, total_s: float) -> Patience:
    """From seconds.

    Raises:
        ValueError: a grace below 0, or no time at all for a call without a budget.
    """
    if not (0 <= grace_s < float("inf") and 0 < total_s < float("inf")):
        raise ValueError(f"a grace must be at least 0 s and patience above 0 s; got {grace_s} and {total_s}")
    return Patience(round(grace_s * NS_PER_S), max(1, round(total_s * NS_PER_S)))


READY_PATIENCE = patience(grace_s=1.0, total_s=1.0)
"""The last question gets its answer, which says more than that there was none in the time that was left."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send the request now. `budget_ns` goes on the wire (None: none was asked for); give up after `timeout_ns`."""

    budget_ns: int | None
    timeout_ns: int


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait, then ask again what to do."""

    duration_ns: int


class RetryThrottle:
    """Stops the retries of all calls of a client while most of them fail, so that they do not add to an overload.

    gRFC A6's retry throttling: each failure that could be retried takes a token, each answer gives a tenth back, and
    retries are made only while more than half of the tokens are there. Safe to share between threads.
    """

    _TOKENS_MAX = 10.0
    _TOKENS_AN_ANSWER = 0.1

    def __init__(self) -> None:
        self._tokens = self._TOKENS_MAX
        self._lock = threading.Lock()

    def answered(self) -> None:
        """Count an answer."""
        with self._lock:
            self._tokens = min(self._TOKENS_MAX, self._tokens + self._TOKENS_AN_ANSWER)

    def failed(self) -> None:
        """Count a failure that could be retried."""
        with self._lock:
            self._tokens = max(0.0, self._tokens - 1.0)

    @property
    def allows(self) -> bool:
        """Whether a retry may be made now."""
        return self._tokens > self._TOKENS_MAX / 2


class Retries:
    """What the calls of one client share: how they are retried, and for how long they wait."""

    def __init__(self, policy: RetryPolicy, patience: Patience, random: Callable[[], float]) -> None:
        """`random` gives numbers from 0 (inclusive) to 1, from any thread."""
        self.policy = policy
        self.patience = patience
        self.throttle = RetryThrottle()
        self.random = random

    def begin(self, now_ns: int, *, budget_ns: int | None = None, is_late_allowed: bool = False) -> Call:
        """A call that starts now. Without a budget it may take the whole patience."""
        return Call(self, now_ns, budget_ns=budget_ns, is_late_allowed=is_late_allowed)


class Call:
    """One call from its start to its answer or last error: ask `next` what to do, tell `failed` or `answered`."""

    def __init__(self, shared: Retries, started_ns: int, *, budget_ns: int | None, is_late_allowed: bool) -> None:
        """Made by `Retries.begin`."""
        self._policy = shared.policy
        self._throttle = shared.throttle
        self._random = shared.random
        self._started_ns = started_ns
        self._budget_ns = budget_ns
        patience = shared.patience
        window_ns = patience.total_ns if budget_ns is None else budget_ns
        self._send_until_ns = started_ns + window_ns
        wait_ns = window_ns if budget_ns is None else window_ns + patience.grace_ns
        self._wait_until_ns = started_ns + (max(wait_ns, patience.total_ns) if is_late_allowed else wait_ns)
        self._sent = 0
        self._error: PhiserveError | None = None
        self._resume_ns: int | None = None

    def next(self, now_ns: int) -> Send | Pause:
        """What to do at `now_ns`.

        Raises:
            PhiserveError: the last failure, when it is not to be tried again, or the budget does not last for it.
        """
        if self._error is not None:
            if self._resume_ns is None:
                self._resume_ns = now_ns + self._pause_ns(self._error)
            if self._resume_ns >= self._send_until_ns or now_ns >= self._send_until_ns:
                raise self._error
            if now_ns < self._resume_ns:
                return Pause(self._resume_ns - now_ns)
        self._sent += 1
        self._resume_ns = None
        first = self._error is None
        left_ns = self._send_until_ns - now_ns
        return Send(
            budget_ns=None if self._budget_ns is None else self._budget_ns if first else left_ns,
            timeout_ns=max(1, self._wait_until_ns - now_ns),
        )

    @property
    def silence_ns(self) -> int:
        """How long its first attempt is waited for: the budget and the grace, or the patience."""
        return self._wait_until_ns - self._started_ns

    def failed(self, error: PhiserveError) -> None:
        """What was sent last ended with `error`."""
        self._error = error
        if is_transient(error):
            self._throttle.failed()

    def answered(self) -> None:
        """What was sent last was answered."""
        self._throttle.answered()

    def _pause_ns(self, error: PhiserveError) -> int:
        """How long to wait before the next attempt; raises `error` if there is to be none."""
        is_throttled = self._policy.is_throttled and not self._throttle.allows
        if not is_transient(error) or self._sent >= self._policy.attempts_max or is_throttled:
            raise error
        asked_ms = (error.retry_after_s or 0.0) * 1000 if isinstance(error, Overloaded) else 0.0
        if asked_ms > self._policy.pause_ms_max:
            raise error
        doublings = min(self._sent - 1, _DOUBLINGS_MAX)
        ceiling_ms = min(self._policy.backoff_ms_initial * 2.0**doublings, self._policy.backoff_ms_max)
        return round((asked_ms + ceiling_ms * self._random()) * NS_PER_MS)


def is_transient(error: PhiserveError) -> bool:
    """Whether the same request may succeed when it is sent again.

    Never what the request itself is to blame for, never a budget that cannot be met, and never a silence: whoever
    was silent for a whole budget has had it.
    """
    if isinstance(error, ConnectionFailed):
        return error.is_transient
    if isinstance(error, UnexpectedAnswer):
        return error.status in _TRANSIENT_STATUSES
    return isinstance(error, (Overloaded, NotReady))
