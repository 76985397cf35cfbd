"""Stages of a picture: stretches that follow each other, from received to ended, the last being where it ended."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from service.core.request import DEFAULT_POLICY, Plan, QueuedRequest, StageTimings
from service.telemetry.stages import Progress, Stage, stages_of_answer, stages_until

REQUEST = QueuedRequest(1, received_ns=100, deadline_ns=900, policy=DEFAULT_POLICY)
PLAN = Plan("small", 1, (1,), latency_ns=10)
LENGTHS = st.integers(0, 10**12)


@given(st.tuples(*[LENGTHS] * 7))
def test_an_answers_stages_add_up_to_its_total(lengths_ns) -> None:
    """Each lasts as long as the answer's timings say, and what the run took beyond its two parts is its own."""
    received, admission, decode, queue, preprocess, inference, rest = lengths_ns
    queued = received + admission + decode
    total = admission + decode + queue + preprocess + inference + rest
    stages = stages_of_answer(received, queued, StageTimings(decode, queue, preprocess, inference, total))
    assert [stage.name for stage in stages] == ["admission", "decode", "queue", "run"]
    lengths = [stage.end_ns - stage.begin_ns for stage in stages]
    assert lengths == [admission, decode, queue, preprocess + inference + rest]
    assert [stage.begin_ns for stage in stages[1:]] == [stage.end_ns for stage in stages[:-1]]
    assert (stages[0].begin_ns, stages[-1].end_ns) == (received, received + total)
    first, second = stages[-1].inner
    assert (first.begin_ns, second.begin_ns) == (stages[-1].begin_ns, first.end_ns)
    assert (first.end_ns - first.begin_ns, second.end_ns - second.begin_ns) == (preprocess, inference)


def test_without_an_answer_the_last_stage_is_where_it_ended() -> None:
    """At the door, decoding, in the queue or running; each stage before it is whole."""
    door, decode = Stage("admission", 100, 150), Stage("decode", 150, 300)
    queue = Stage("queue", 300, 400)
    assert stages_until(100, None, 500) == (Stage("admission", 100, 500),)
    progress = Progress(admitted_ns=150)
    assert stages_until(100, progress, 500) == (door, Stage("decode", 150, 500))
    progress.request, progress.queued_ns = REQUEST, 300
    assert stages_until(100, progress, 500) == (door, decode, Stage("queue", 300, 500))
    progress.plan, progress.started_ns = PLAN, 400
    assert stages_until(100, progress, 500) == (door, decode, queue, Stage("run", 400, 500))


def test_no_stage_ends_before_it_begins() -> None:
    """When it was received is told late by as long as telling took, which may be longer than admission lasted."""
    assert stages_until(160, Progress(admitted_ns=150), 500)[0] == Stage("admission", 150, 150)
    decoded = Progress(admitted_ns=150, request=REQUEST, queued_ns=300)
    assert stages_until(160, decoded, 500)[0] == Stage("admission", 100, 150)
