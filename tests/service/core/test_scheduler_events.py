"""The scheduler as a state machine, in any order of events."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from service.core.menu import Menu
from service.core.request import OnMiss, QueuedRequest, RoutingPolicy
from service.core.scheduler import Dispatch, Outcome, Settle, WakeAt
from tests.fakes.menus import MS, choice, gpu_menu, scheduler

START_NS = 1_000_000_000
PINS = ("small", "large", "wide", "new")


class AnyOrderOfEvents(RuleBasedStateMachine):
    """Submits, cancels, finishes, failures, timers, new menus and the passing of time, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.menu = Menu([*gpu_menu().choices, choice("wide", 82, {1: 30, 4: 60}, threads=2)])
        self.machine = scheduler(self.menu, workers=3, queue_size_max=8)
        self.now_ns = START_NS
        self.requests: dict[int, QueuedRequest] = {}
        self.open: set[int] = set()
        self.expected: dict[int, QueuedRequest] = {}
        self.running: dict[int, Dispatch] = {}
        self.wake_ns: int | None = None

    def perform(self, actions: tuple[object, ...]) -> None:
        for action in actions:
            if isinstance(action, Settle):
                assert action.request_id in self.open, f"{action} of a request that is not open"
                self.open.remove(action.request_id)
            elif isinstance(action, Dispatch):
                busy = {worker for run in self.running.values() for worker in run.workers}
                assert not busy & set(action.workers)
                assert set(action.plan.request_ids) <= self.open
                for request_id in action.plan.request_ids:
                    found = self.requests[request_id]
                    allowed = {choice.variant.name for choice in self.menu.allowed(found.policy)}
                    assert action.plan.variant in allowed
                    on_time = self.now_ns + action.plan.latency_ns <= found.deadline_ns
                    assert on_time or found.policy.on_miss is OnMiss.LATE
                self.running[action.workers[0]] = action
            else:
                assert isinstance(action, WakeAt)
                self.wake_ns = action.at_ns

    @rule(
        budget_ms=st.integers(1, 200),
        pin=st.sampled_from([None, None, None, *PINS]),
        on_miss=st.sampled_from(OnMiss),
        priority=st.integers(0, 9),
    )
    def submit(self, budget_ms: int, pin: str | None, on_miss: OnMiss, priority: int) -> None:
        request_id = len(self.requests) + 1
        policy = RoutingPolicy(variant=pin, on_miss=on_miss, priority=priority)
        if not self.menu.allows(policy):
            return  # the door would say so
        made = QueuedRequest(request_id, self.now_ns, self.now_ns + budget_ms * MS, policy)
        self.requests[request_id] = made
        self.open.add(request_id)
        self.perform(self.machine.submit(made, self.now_ns))

    @rule(budget_ms=st.integers(1, 200), ready_ms=st.integers(0, 40), pin=st.sampled_from([None, None, *PINS]))
    def expect(self, budget_ms: int, ready_ms: int, pin: str | None) -> None:
        policy = RoutingPolicy(variant=pin)
        if not self.menu.allows(policy):
            return
        request_id = 1_000_000 + len(self.requests)
        deadline_ns, ready_ns = self.now_ns + budget_ms * MS, self.now_ns + ready_ms * MS
        made = QueuedRequest(request_id, self.now_ns, deadline_ns, policy)
        self.requests[request_id] = self.expected[request_id] = made
        self.machine.expect(request_id, deadline_ns, policy, ready_ns=ready_ns)

    @precondition(lambda self: self.expected)
    @rule(data=st.data(), submitted=st.booleans())
    def decoded(self, data: st.DataObject, *, submitted: bool) -> None:
        made = self.expected.pop(data.draw(st.sampled_from(sorted(self.expected))))
        if submitted and self.menu.allows(made.policy) and made.deadline_ns >= self.now_ns:
            self.open.add(made.request_id)
            self.perform(self.machine.submit(made, self.now_ns))
        else:
            self.perform(self.machine.forget(made.request_id, self.now_ns))

    @rule(variants=st.sets(st.sampled_from(PINS), min_size=1), factor=st.sampled_from([0.5, 1, 3]))
    def adopt(self, variants: set[str], factor: float) -> None:
        known = {choice.variant.name: choice for choice in gpu_menu().choices}
        choices = [
            choice(name, known[name].accuracy, {1: 20 * factor, 2: 23 * factor, 4: 29 * factor})
            for name in variants & known.keys()
        ]
        choices += [choice("wide", 82, {1: 30 * factor}, threads=2)] if "wide" in variants else []
        choices += [choice("new", 84, {1: 8 * factor})] if "new" in variants else []
        # The narrow one is always there, as on any machine; pins to it are not.
        self.menu = Menu([*choices, choice("narrow", 60, {1: 6 * factor})])
        before = set(self.open)
        actions = self.machine.adopt(self.menu, 0, self.now_ns)
        told = {action.request_id: action.outcome for action in actions if isinstance(action, Settle)}
        self.perform(actions)
        running = {request_id for run in self.running.values() for request_id in run.plan.request_ids}
        for request_id in before - running:
            if not self.menu.allows(self.requests[request_id].policy):
                assert told.get(request_id) is Outcome.NOT_SERVED

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request_id = data.draw(st.sampled_from(sorted(self.requests)))
        was_open = request_id in self.open
        self.perform(self.machine.cancel(request_id, self.now_ns))
        assert request_id not in self.open
        assert was_open or request_id in self.requests

    @precondition(lambda self: self.running)
    @rule(data=st.data(), failed=st.booleans())
    def finish(self, data: st.DataObject, *, failed: bool) -> None:
        worker = data.draw(st.sampled_from(sorted(self.running)))
        del self.running[worker]
        self.perform(self.machine.worker_idle(worker, self.now_ns, failed=failed))

    @rule(delta_us=st.integers(0, 30_000))
    def time_passes(self, delta_us: int) -> None:
        target_ns = self.now_ns + delta_us * 1000
        while self.wake_ns is not None and self.wake_ns <= target_ns:
            self.now_ns, self.wake_ns = max(self.now_ns, self.wake_ns), None
            self.perform(self.machine.wake(self.now_ns))
        self.now_ns = target_ns

    @rule()
    def spurious_wake(self) -> None:
        self.wake_ns = None
        self.perform(self.machine.wake(self.now_ns))

    @invariant()
    def the_queue_is_bounded(self) -> None:
        pressure = self.machine.pressure
        assert pressure.queued + pressure.late <= 8

    @invariant()
    def no_open_request_is_past_its_deadline(self) -> None:
        for request_id in self.open:
            found = self.requests[request_id]
            assert found.policy.on_miss is OnMiss.LATE or self.now_ns <= found.deadline_ns

    @invariant()
    def a_worker_idles_only_if_nothing_can_run(self) -> None:
        if not self.running:
            assert self.machine.pressure.in_flight == 0
            # A prediction may have grown since a request was queued; one that could still be in time never waits.
            for found in (self.requests[request_id] for request_id in self.open):
                hopeless = self.now_ns + self.menu.fastest_ns(found.policy) > found.deadline_ns
                assert hopeless or self.gives_way(found), f"{found} waits"

    def gives_way(self, found: QueuedRequest) -> bool:
        """Whether a worker may idle: somebody who is due before `found` is expected."""
        return any(made.deadline_ns < found.deadline_ns for made in self.expected.values())

    def teardown(self) -> None:
        while self.running:
            worker = next(iter(self.running))
            self.now_ns += 30 * MS
            del self.running[worker]
            self.perform(self.machine.worker_idle(worker, self.now_ns))
        self.perform(self.machine.wake(self.now_ns + 20_000 * MS))
        assert not self.open, "some requests never settled"
        assert self.machine.is_empty


TestAnyOrderOfEvents = AnyOrderOfEvents.TestCase
TestAnyOrderOfEvents.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
