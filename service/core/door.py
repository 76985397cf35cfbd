"""What a request must pass before any work is spent on it, and how many are inside.

Cheap checks first: options, room, policy, the picture's header, then whether it can be in time. Decodes nothing.
"""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from dataclasses import dataclass

from model_store.latency_profile import StageCost
from service.core.admission import Infeasible
from service.core.clock import Clock
from service.core.drift import Drift
from service.core.loop_lag import LoopLag
from service.core.menu import Menu
from service.core.ports import Absentees, Decoder
from service.core.request import PIXELS_FORMAT, ImageHeader, OnMiss, Picture, RequestOptions, RoutingPolicy
from service.core.scheduler import Scheduler
from service.errors import DeadlineExceeded, InvalidArgument, Overloaded, PhiserveError

NS_PER_MS = 1_000_000

_TYPICAL_PICTURE = ImageHeader("JPEG", 1920, 1080)
"""What is assumed of a picture that nobody has sent: a 1080p photograph."""

_TRANSPORT_CORE_NS = 1_000_000
"""Core time a request takes in the front end and the event loop: measured on a loaded server as what its answers took
in all, minus decode and run."""

# Taking over pixels that need no decoding: a hand-over to a thread, and averaging blocks of a picture that is far
# larger than needed, which took 3 to 6 ns a pixel; a small one is taken as it is. Drift corrects it elsewhere.
_TAKE_OVER = StageCost(fixed_ns=200_000, per_megapixel_ns=2_000_000)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A request that has passed the door, for `Engine.answer`. Times by the engine's clock, in nanoseconds."""

    image: Picture
    header: ImageHeader
    options: RequestOptions
    received_ns: int
    deadline_ns: int
    client: str


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Bounds of the engine. `top_k_max` is what workers compute; each answer is cut to what its caller asked.

    `admitted_max` bounds the requests between door and answer, which bounds the memory they hold;
    `admitted_per_client_max` bounds them per client key, so that one client's flood leaves room for others.
    `queue_bytes_max` bounds the decoded pictures that wait for a run; one alone may be larger.
    """

    budget_ns_default: int
    budget_ns_max: int
    top_k_max: int
    admitted_max: int
    admitted_per_client_max: int
    queue_bytes_max: int


class DecodeCost:
    """Predicted time to decode, by the profile, by who is ahead, and by what decodes took lately.

    `ahead`, from `Scheduler.decoding_ahead`, says how many decodes' worth of work comes before a picture's own: it is
    shared by the decoder's threads. What is learned is the usual ratio to that, or else the one that waits for nobody
    would be taken to need what many at once do. The median, since a run's prediction, which comes on top, is a high
    quantile already: with two of them an idle server refused what it makes easily. Pixels that need no decoding are a
    cost of their own, so that they teach nothing wrong about decodes.
    """

    def __init__(self, profile: StageCost, threads: int, clock: Clock) -> None:
        """Start from the profile; `threads` decode."""
        self._profile = profile
        self._threads = threads
        self._clock = clock
        self._drift = Drift()
        self._take_over_drift = Drift()

    def profiled_ns(self, header: ImageHeader) -> int:
        """Nanoseconds of a thread's time for such a picture, by the profile alone."""
        return (_TAKE_OVER if header.format == PIXELS_FORMAT else self._profile).cost_ns(header.pixels)

    def side_core_ns(self, header: ImageHeader) -> int:
        """Core time that a request with such a picture takes outside its run."""
        return self.profiled_ns(header) + _TRANSPORT_CORE_NS

    def typical_ns(self) -> int:
        """Nanoseconds until a picture that nobody has sent is decoded on an idle server."""
        return self.cost_ns(_TYPICAL_PICTURE, 0.0)

    def cost_ns(self, header: ImageHeader, ahead: float) -> int:
        """Nanoseconds until such a picture is decoded."""
        drift, now_ns = self._drift_of(header), self._clock.now_ns()
        usual = drift.median(now_ns)
        return int(self._expected_ns(header, ahead) * (drift.ratio(now_ns) if usual is None else usual))

    def surely_ns(self, header: ImageHeader, ahead: float) -> int:
        """The same, as nine of ten took at most: a budget that is named to a caller should do."""
        ratio = self._drift_of(header).ratio(self._clock.now_ns())
        return max(self.cost_ns(header, ahead), int(self._expected_ns(header, ahead) * ratio))

    def took(self, header: ImageHeader, ahead: float, took_ns: int) -> None:
        """Such a picture, with so much ahead of it when it came, took `took_ns`, and was finished just now."""
        self._drift_of(header).observe(self._expected_ns(header, ahead), took_ns, self._clock.now_ns())

    def _expected_ns(self, header: ImageHeader, ahead: float) -> int:
        return int(self.profiled_ns(header) * (1 + ahead / self._threads))

    def _drift_of(self, header: ImageHeader) -> Drift:
        return self._take_over_drift if header.format == PIXELS_FORMAT else self._drift


class Door:
    """Judges newcomers and counts who is inside, in all and by client."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        menu: Menu,
        decoder: Decoder,
        decode: DecodeCost,
        clock: Clock,
        settings: EngineSettings,
        lock: AbstractContextManager[object],
    ) -> None:
        """Nobody is inside. The scheduler is asked under `lock`."""
        self._lock = lock
        self._scheduler = scheduler
        self._menu = menu
        self._decoder = decoder
        self._decode = decode
        self._clock = clock
        self._settings = settings
        self.behind_ns = LoopLag(clock).behind_ns
        self._by_client: Counter[str] = Counter()
        self.inside = 0
        self.absentees: Absentees | None = None

    def adopt(self, menu: Menu) -> None:
        """Judge by `menu` from now on, as the scheduler does."""
        self._menu = menu

    def enter(self, client: str) -> None:
        """A request of `client` was admitted."""
        self.inside += 1
        self._by_client[client] += 1

    def leave(self, client: str) -> None:
        """A request of `client` is over."""
        self.inside -= 1
        self._by_client[client] -= 1
        if not self._by_client[client]:
            del self._by_client[client]

    def judge(self, image: Picture, options: RequestOptions, received_ns: int, client: str) -> Admitted:
        """The request with its image's header and its deadline, if it may enter.

        Raises:
            PhiserveError: the reason why not, with what would have worked.
        """
        self._check_options(options)
        self._check_room(client)
        deadline_ns = received_ns + (options.budget_ns or self._settings.budget_ns_default)
        wait_ns = self.wait_ns(options.policy, deadline_ns)
        header = self._decoder.probe(image)
        if wait_ns is None:
            self.judge_time(header, options.policy, received_ns, deadline_ns)
        elif options.policy.on_miss is OnMiss.REJECT:
            needed_ns = self._clock.now_ns() + wait_ns + self._decode.cost_ns(header, 0.0) - received_ns
            if received_ns + needed_ns > deadline_ns:
                raise too_late("a variant that may answer has to be loaded first", needed_ns)
        return Admitted(image, header, options, received_ns, deadline_ns, client)

    def judge_time(self, header: ImageHeader, policy: RoutingPolicy, received_ns: int, deadline_ns: int) -> None:
        """Whether a picture that is decoded from now on can be in time, at no cost to those inside.

        Raises:
            DeadlineExceeded, Overloaded: as `judge`.
        """
        if policy.on_miss is OnMiss.REJECT:
            with self._lock:
                ahead = self._scheduler.decoding_ahead(deadline_ns)
                now_ns = self._clock.now_ns()
                ready_ns = now_ns + self._decode.cost_ns(header, ahead)
                infeasible = self._scheduler.infeasible(deadline_ns, policy, ready_ns=ready_ns, now_ns=now_ns)
            if infeasible is not None:
                raise _refusal(infeasible, now_ns - received_ns + self._decode.surely_ns(header, ahead))

    def wait_ns(self, policy: RoutingPolicy, deadline_ns: int) -> int | None:
        """Until a variant is loaded that `policy` allows, and its run; None if one is.

        Raises:
            UnknownVariant, InvalidArgument: none ever will be.
            Overloaded: there is no telling when.
        """
        if self.absentees is not None and not self._menu.allows(policy):
            now_ns = self._clock.now_ns()
            wait_ns = self.absentees.wait_ns(policy, deadline_ns - now_ns, now_ns)
            if wait_ns is not None:
                return wait_ns
        self._menu.allowed(policy)
        return None

    def _check_room(self, client: str) -> None:
        of_client = self._by_client[client]
        if of_client >= self._settings.admitted_per_client_max:
            reason = f"this client has {of_client} requests in service, the most one client may have"
        elif self.inside >= self._settings.admitted_max:
            reason = f"{self.inside} requests are in service, the most this server takes"
        else:
            return
        with self._lock:
            retry_after_ns = self._scheduler.retry_after_ns(self._clock.now_ns())
        raise Overloaded(f"{reason}; retry later or scale out", retry_after_ns=retry_after_ns)

    def _check_options(self, options: RequestOptions) -> None:
        budget_ns = options.budget_ns
        if budget_ns is not None and not 0 < budget_ns <= self._settings.budget_ns_max:
            limit_ms = self._settings.budget_ns_max / NS_PER_MS
            raise InvalidArgument(f"the budget must be above 0 and at most {limit_ms:g} ms")
        if not 1 <= options.top_k <= self._settings.top_k_max:
            raise InvalidArgument(f"top_k must be 1 to {self._settings.top_k_max}, got {options.top_k}")


def too_late(reason: str, feasible_ns: int) -> DeadlineExceeded:
    """The refusal, with the smallest feasible budget rounded up to what the caller would type: 0.1 ms."""
    feasible_tenths = -(-feasible_ns // 100_000)
    return DeadlineExceeded(
        f"{reason}; the smallest feasible budget for this image is about {feasible_tenths / 10:.1f} ms now",
        smallest_feasible_budget_ns=feasible_tenths * 100_000,
    )


def _refusal(infeasible: Infeasible, before_ns: int) -> PhiserveError:
    """What the door says; `before_ns` is what the budget has to cover before the queue."""
    if infeasible.retry_after_ns is None:
        return too_late(infeasible.reason, before_ns + infeasible.needed_ns)
    return Overloaded(f"{infeasible.reason}; retry later or scale out", retry_after_ns=infeasible.retry_after_ns)
