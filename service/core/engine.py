"""The asyncio shell around the scheduler: carries requests in, performs its actions, carries answers out.

A worker whose run is over asks the scheduler for its next one itself, on its own thread: two wake-ups of threads
less between two runs. So the scheduler, and what says which run has whose pictures, are touched under a lock; futures,
timers and instruments on the event loop's thread only, which workers reach by `call_soon_threadsafe`. It decides
nothing that the scheduler can decide, and knows neither HTTP nor gRPC.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import TypeGuard

from service.core.absence import presence
from service.core.alarm import Alarm
from service.core.clock import Clock
from service.core.door import Admitted, DecodeCost, Door, EngineSettings, too_late
from service.core.flight import Flight, Run, answer_of
from service.core.generation import Generation, VariantStatus
from service.core.instrument import Instrument
from service.core.ports import Absentees, DecodedImage, Decoder
from service.core.request import (
    DEFAULT_POLICY,
    Classification,
    OnMiss,
    Picture,
    QueuedRequest,
    RequestOptions,
    RoutingPolicy,
    RunResult,
)
from service.core.scheduler import Action, Dispatch, Outcome, Scheduler, Settle, WakeAt
from service.errors import InferenceFailed, InvalidArgument, NotReady, Overloaded, PhiserveError, UnknownVariant

logger = logging.getLogger(__name__)

NS_PER_S = 1_000_000_000


class Readiness(StrEnum):
    """What the server tells load balancers: only `READY` asks for traffic."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Engine:
    """Answers images with classifications. One per process; all methods are for the event loop's thread."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        generation: Generation,
        decoder: Decoder,
        clock: Clock,
        instrument: Instrument,
        settings: EngineSettings,
    ) -> None:
        """Wire the parts, of which `scheduler` plans with the menu of `generation`; `open` makes it ready."""
        self._scheduler = scheduler
        self._generation = generation
        self._decoder = decoder
        self._clock = clock
        self._instrument = instrument
        self._settings = settings
        # Held for decisions, never while anything is decoded, run or told. It guards the scheduler, the menu that it
        # plans with, `_runs`, and of each flight what a dispatch changes; the rest is the event loop's.
        self._lock = threading.Lock()
        self._flights: dict[int, Flight] = {}
        self._waiting_bytes = 0
        self._runs: dict[int, Run] = {}
        self._retiring: dict[Generation, asyncio.Future[None]] = {}
        self._last_id = 0
        self._accepting = False
        self._decode = DecodeCost(generation.profile.decode, decoder.threads, clock)
        self._door = Door(
            scheduler=scheduler,
            menu=generation.menu,
            decoder=decoder,
            decode=self._decode,
            clock=clock,
            settings=settings,
            lock=self._lock,
        )
        self._alarm = Alarm(clock, self._wake)
        self._drained = asyncio.Event()
        self.readiness = Readiness.STARTING

    # For front ends -------------------------------------------------------------------------------------

    @property
    def budget_ns_default(self) -> int:
        """The budget of a request that names none."""
        return self._settings.budget_ns_default

    @property
    def budget_ns_max(self) -> int:
        """The largest budget a request may name."""
        return self._settings.budget_ns_max

    @property
    def top_k_max(self) -> int:
        """The most classes a request may ask for."""
        return self._settings.top_k_max

    def now_ns(self) -> int:
        """The engine's clock: `received_ns` must be read from it."""
        return self._clock.now_ns()

    @property
    def store_version(self) -> str:
        """What the store held that is served now."""
        return self._generation.version

    def variants(self) -> tuple[VariantStatus, ...]:
        """Every served variant, most accurate first."""
        with self._lock:
            return self._generation.statuses()

    def choose_when_idle(self, budget_ns: int) -> str | None:
        """The variant that an idle server would answer a typical photograph with, given `budget_ns`."""
        decode_ns = self._decode.typical_ns()
        with self._lock:
            self._scheduler.refresh(self._clock.now_ns())
            return self._scheduler.idle_choice(budget_ns - decode_ns, DEFAULT_POLICY)

    async def infer(
        self,
        image: Picture,
        options: RequestOptions,
        *,
        received_ns: int,
        began_ns: int | None = None,
        client: str = "",
    ) -> Classification:
        """Classify one picture, encoded or as pixels, within its budget, counted from `received_ns`.

        `began_ns`: when the first byte was read, where that is known; how long the rest took counts where the event
        loop is behind. `client` is the key that fairness goes by (an address or an account). Cancelling the calling
        task cancels the request and nothing else.

        Raises:
            PhiserveError: see `service/errors.py`; every kind but Unauthenticated.
        """
        return await self.answer(self.admit(image, options, received_ns=received_ns, began_ns=began_ns, client=client))

    def admit(
        self,
        image: Picture,
        options: RequestOptions,
        *,
        received_ns: int,
        began_ns: int | None = None,
        client: str = "",
    ) -> Admitted:
        """The first half of `infer`, which raises the same: pass the door, or be refused before anything is prepared.

        Its caller must await `answer` at once: who is admitted is counted from here on.
        """
        reading_ns = 0 if began_ns is None else received_ns - began_ns
        behind_ns = self._door.behind_ns(asyncio.get_running_loop().call_soon, reading_ns)
        # What comes in has waited for the event loop as what goes out does, and only the latter can be timed.
        received_ns -= max(behind_ns, self._scheduler.delivery_ns)
        try:
            if not self._accepting:
                raise NotReady(f"the server is {self.readiness}; ask /readyz and try again when it is ready")
            admitted = self._door.judge(image, options, received_ns, client)
        except PhiserveError as error:
            self._instrument.request_failed(error, admitted=False, waited_ns=self.now_ns() - received_ns)
            raise
        self._instrument.request_admitted()
        self._door.enter(client)
        return admitted

    async def answer(self, admitted: Admitted) -> Classification:
        """The second half of `infer`, which raises the same."""
        received_ns = admitted.received_ns
        try:
            answer = await self._serve(admitted)
        except asyncio.CancelledError:
            self._instrument.request_cancelled(self.now_ns() - received_ns)
            raise
        except Exception as error:  # one that nobody foresaw too: it has to be counted, and is no longer inside
            self._instrument.request_failed(error, admitted=True, waited_ns=self.now_ns() - received_ns)
            raise
        finally:
            self._door.leave(admitted.client)
            self._check_drained()
        self._instrument.request_settled(answer)
        return answer

    # One request's way ----------------------------------------------------------------------------------

    async def _serve(self, admitted: Admitted) -> Classification:
        options, received_ns, deadline_ns = admitted.options, admitted.received_ns, admitted.deadline_ns
        while not self._generation.menu.allows(options.policy) and self._door.absentees is not None:
            await presence(self._door, self._decode, self._door.absentees, admitted, self.now_ns())
        self._last_id += 1
        request = QueuedRequest(self._last_id, received_ns, deadline_ns, options.policy)
        side_core_ns = self._decode.side_core_ns(admitted.header)
        with self._lock:
            ahead = self._scheduler.decoding_ahead(deadline_ns)
            ready_ns = self.now_ns() + self._decode.cost_ns(admitted.header, ahead)
            self._scheduler.expect(
                request.request_id, deadline_ns, options.policy, ready_ns=ready_ns, side_core_ns=side_core_ns
            )
        try:
            decoded, decode_ns = await self._decode_image(admitted, ahead)
            now_ns = self.now_ns()
            with self._lock:
                self._find_room(decoded, now_ns)
                idle_choice = self._scheduler.idle_choice(deadline_ns - now_ns, options.policy)
        except BaseException:
            self._step(lambda: self._scheduler.forget(request.request_id, self.now_ns()))
            raise
        flight = Flight(
            options=options,
            budget_ns=deadline_ns - received_ns,
            received_ns=received_ns,
            decode_ns=decode_ns,
            submitted_ns=now_ns,
            idle_choice=idle_choice,
            image=decoded,
            answer=asyncio.get_running_loop().create_future(),
        )
        self._flights[request.request_id] = flight
        self._instrument.request_queued(request, now_ns)
        self._step(lambda: self._scheduler.submit(request, now_ns))
        try:
            answer = await flight.answer
        except asyncio.CancelledError:
            self._cancel(request.request_id)
            raise
        now_ns = self.now_ns()
        with self._lock:
            self._scheduler.delivered(now_ns - flight.run_ended_ns, now_ns)
        return answer

    def _find_room(self, decoded: DecodedImage, now_ns: int) -> None:
        """Count its pixels among those that wait. Whoever waits alone has room, however large the picture."""
        if self._waiting_bytes and self._waiting_bytes + decoded.nbytes > self._settings.queue_bytes_max:
            raise Overloaded(
                f"decoded pictures of {self._waiting_bytes} bytes wait, which leaves no room for one of "
                f"{decoded.nbytes}; retry later or scale out",
                retry_after_ns=self._scheduler.retry_after_ns(now_ns),
            )
        self._waiting_bytes += decoded.nbytes

    def _cancel(self, request_id: int) -> None:
        self._step(lambda: self._scheduler.cancel(request_id, self.now_ns()))

    async def _decode_image(self, admitted: Admitted, ahead: float) -> tuple[DecodedImage, int]:
        """Decode no larger than the variants need that could still be chosen at this load, within the deadline.

        Decoding is half of the work, and what is not decoded need not be resized either. A variant that is chosen all
        the same, since the load fell meanwhile, gets a picture that is a little smaller than it could use.
        """
        header, policy, deadline_ns = admitted.header, admitted.options.policy, admitted.deadline_ns
        started_ns = self.now_ns()
        slack_ns = deadline_ns - started_ns - self._decode.cost_ns(header, ahead)
        with self._lock:
            names = self._scheduler.likely_variants(slack_ns, policy, started_ns)
        resolution = max(self._generation.shorter_sides_px[name] for name in names)
        try:
            patient = policy.on_miss is OnMiss.LATE
            async with asyncio.timeout(None if patient else (deadline_ns - started_ns) / NS_PER_S):
                decoded = await self._decoder.decode(admitted.image, resolution, deadline_ns)
        except TimeoutError:
            reason = "the budget ran out while the image was decoded"
            raise too_late(reason, self._enough_ns(policy, self._decode.cost_ns(header, ahead))) from None
        now_ns = self.now_ns()
        self._decode.took(header, ahead, now_ns - started_ns)
        if (error := self._no_longer_served(policy)) is not None:
            raise error
        return decoded, now_ns - started_ns

    # Performing the scheduler's actions -----------------------------------------------------------------

    def _step(self, step: Callable[[], tuple[Action, ...]]) -> None:
        """Have the scheduler decide, on the event loop's thread, and do as it says."""
        loop = asyncio.get_running_loop()
        with self._lock:
            actions = step()
            started = self._start_runs(actions, loop)
        self._tell(actions, started)

    def _start_runs(self, actions: Iterable[Action], loop: asyncio.AbstractEventLoop) -> list[Run]:
        """Hand over what is to be dispatched, under the lock, on any thread."""
        return [self._start_run(action, loop) for action in actions if isinstance(action, Dispatch)]

    def _start_run(self, dispatch: Dispatch, loop: asyncio.AbstractEventLoop) -> Run:
        now_ns = self.now_ns()
        worker, plan, generation = dispatch.workers[0], dispatch.plan, self._generation
        images, top_k = [], 1
        for request_id in plan.request_ids:
            flight = self._flights[request_id]
            assert flight.image is not None, f"request {request_id} is dispatched twice"
            images.append(flight.image)
            self._waiting_bytes -= flight.image.nbytes
            flight.image = None  # from here the worker holds the pixels, and only while it runs
            flight.dispatched_ns = now_ns
            flight.generation = generation
            top_k = max(top_k, flight.options.top_k)
        run = self._runs[worker] = Run(worker, plan, generation, now_ns)
        generation.workers.start_run(worker, plan, images, top_k, lambda result: self._run_ended(worker, result, loop))
        return run

    def _run_ended(self, worker: int, result: RunResult | BaseException, loop: asyncio.AbstractEventLoop) -> None:
        """On the worker's thread: its next run starts now, and the event loop is told of both."""
        with self._lock:
            run = self._runs.pop(worker)
            run.result, run.ended_ns = result, self.now_ns()
            actions = self._scheduler.worker_idle(worker, run.ended_ns, failed=not isinstance(result, RunResult))
            started = self._start_runs(actions, loop)
            # In the order of decisions, so under the lock.
            loop.call_soon_threadsafe(self._run_is_over, run, actions, started)

    def _run_is_over(self, run: Run, actions: tuple[Action, ...], started: list[Run]) -> None:
        if isinstance(run.result, RunResult):
            self._instrument.run_finished(run.plan, run.result)
            for action in filter(_is_answer, actions):
                self._answer(action.request_id, run)
        else:
            assert run.result is not None, "a run is over with a result or an error"
            logger.error("run of %s on worker %d failed", run.plan.variant, run.worker, exc_info=run.result)
            self._instrument.run_failed(run.plan, run.result)
        self._tell((action for action in actions if not _is_answer(action)), started)
        self._check_retired(run.generation)
        self._check_drained()

    def _tell(self, actions: Iterable[Action], started: Iterable[Run]) -> None:
        """All of the scheduler's actions but dispatches, on the event loop's thread."""
        for run in started:
            self._instrument.run_started(run.plan, run.started_ns)
        for action in actions:
            if isinstance(action, Settle):
                self._settle(action)
            elif isinstance(action, WakeAt):
                # The wish of now: the one that brought us here may have been overtaken by another thread's.
                self._alarm.set(self._scheduler.wake_at_ns)
        pressure = self._scheduler.pressure
        self._instrument.queue_changed(pressure.queued + pressure.late, pressure.in_flight)

    def _answer(self, request_id: int, run: Run) -> None:
        flight = self._flights.pop(request_id)
        flight.run_ended_ns = run.ended_ns
        if not flight.answer.done():
            flight.answer.set_result(answer_of(request_id, flight, run, self.now_ns()))

    def _settle(self, settle: Settle) -> None:
        flight = self._flights.pop(settle.request_id)
        with self._lock:
            if flight.image is not None:
                self._waiting_bytes -= flight.image.nbytes
        if settle.outcome is Outcome.CANCELLED:
            return
        flight.fail(self._error(settle, flight))

    def _error(self, settle: Settle, flight: Flight) -> PhiserveError:
        if settle.outcome is Outcome.OVERLOADED:
            return Overloaded("the queue is full; retry later or scale out", retry_after_ns=settle.retry_after_ns)
        if settle.outcome is Outcome.FAILED:
            return InferenceFailed("the model run failed; the server's log has the cause")
        if settle.outcome is Outcome.NOT_SERVED and (error := self._no_longer_served(flight.options.policy)):
            return error
        assert settle.outcome is Outcome.DEADLINE_EXCEEDED, settle
        return too_late("the budget ran out in the queue", self._would_do_ns(flight))

    def _would_do_ns(self, flight: Flight) -> int:
        """The budget that would have done; by the menu it was served from, where the one of now has nothing for it."""
        policy, generation = flight.options.policy, flight.generation or self._generation
        if self._generation.menu.allows(policy):
            return self._enough_ns(policy, flight.decode_ns)
        with self._lock:
            return flight.decode_ns + generation.menu.fastest_ns(policy) + generation.profile.overhead_ns

    def _enough_ns(self, policy: RoutingPolicy, decode_ns: int) -> int:
        """The budget that would do now for a picture that takes `decode_ns` to decode, with the queue as it is."""
        now_ns = self.now_ns()
        with self._lock:
            queued_ns = self._scheduler.enough_ns(policy, ready_ns=now_ns + decode_ns, now_ns=now_ns)
            return self._scheduler.delivery_ns + decode_ns + queued_ns

    def _no_longer_served(self, policy: RoutingPolicy) -> PhiserveError | None:
        """What a request is told whose policy the menu does not allow, although the one at its door did."""
        try:
            self._generation.menu.allowed(policy)
        except (UnknownVariant, InvalidArgument) as error:
            return type(error)(f"another version of the store took over while this request waited: {error.detail}")
        return None

    def _wake(self) -> None:
        self._step(lambda: self._scheduler.wake(self.now_ns()))

    # Life ----------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Take requests from now on. Every resident variant must be loaded, warmed and profiled by now."""
        self._accepting = True
        self.readiness = Readiness.READY

    def adopt(self, generation: Generation) -> asyncio.Future[None]:
        """Serve with `generation` from now on; done when the last run of the one before is over.

        It must be loaded, warmed and profiled, at the widths and with as many workers as the one before. Runs under way
        end where they began. Requests that wait are planned anew, and those that only the menu before allowed are told
        so; no other request notices.
        """
        before = self._generation
        self._retiring[before] = asyncio.get_running_loop().create_future()
        retired = self._retiring[before]
        self._step(lambda: self._take_up(generation))
        self._check_retired(before)
        return retired

    def _take_up(self, generation: Generation) -> tuple[Action, ...]:
        self._generation = generation
        actions = self._scheduler.adopt(generation.menu, generation.profile.overhead_ns, self.now_ns())
        self._door.adopt(generation.menu)
        gone = {action.request_id for action in actions if isinstance(action, Settle)}
        for request_id, flight in self._flights.items():
            if flight.generation is None and request_id not in gone:
                slack_ns = flight.received_ns + flight.budget_ns - flight.submitted_ns
                flight.idle_choice = self._scheduler.idle_choice(slack_ns, flight.options.policy)
        return actions

    def _check_retired(self, generation: Generation) -> None:
        if generation not in self._retiring:
            return
        with self._lock:
            is_over = all(run.generation is not generation for run in self._runs.values())
        if is_over:
            self._retiring.pop(generation).set_result(None)

    def load_on_demand(self, absentees: Absentees) -> None:
        """Have `absentees` load what a request may be answered by alone, while it waits for it."""
        self._door.absentees = absentees

    @property
    def generation(self) -> Generation:
        """What is served with now."""
        return self._generation

    def promised(self) -> list[RoutingPolicy]:
        """What those are served by who wait, as they were admitted."""
        with self._lock:
            return self._scheduler.promised()

    def price_per_core_ns(self) -> float:
        """Top-1 points that a core-nanosecond is worth now."""
        with self._lock:
            return self._scheduler.price_per_core_ns(self.now_ns())

    def announce_drain(self) -> None:
        """Stop asking for traffic, but still serve what comes: load balancers take a while to notice."""
        self.readiness = Readiness.DRAINING

    async def drain(self, timeout_ns: int) -> bool:
        """Refuse new requests, serve those admitted; True if all were settled within `timeout_ns`.

        What is left when the time is up is told so: no request ends without a reply.
        """
        self.readiness = Readiness.DRAINING
        self._accepting = False
        self._check_drained()
        try:
            await asyncio.wait_for(self._drained.wait(), timeout_ns / NS_PER_S)
        except TimeoutError:
            for request_id, flight in tuple(self._flights.items()):
                flight.fail(NotReady("the server stopped before this request was served; try another replica"))
                self._cancel(request_id)
            return False
        return True

    def _check_drained(self) -> None:
        if not self._accepting and not self._door.inside and self._scheduler.is_empty:
            self._drained.set()


def _is_answer(action: Action) -> TypeGuard[Settle]:
    return isinstance(action, Settle) and action.outcome is Outcome.ANSWERED
