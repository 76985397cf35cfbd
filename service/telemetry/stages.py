"""The stages that a picture has gone through, as stretches of time that follow each other without a gap.

Made from what the core tells of it, after it has ended. Knows no clock and no way of showing them.
"""

from __future__ import annotations

from dataclasses import dataclass

from service.core.request import Plan, QueuedRequest, StageTimings


@dataclass(frozen=True, slots=True)
class Stage:
    """A stretch on the engine's clock; `inner` lie within it, one after the other."""

    name: str
    begin_ns: int
    end_ns: int
    inner: tuple[Stage, ...] = ()


@dataclass(slots=True, eq=False)
class Progress:
    """How far an admitted picture has come: decoded once `request` is set, taken by a worker once `plan` is."""

    admitted_ns: int
    request: QueuedRequest | None = None
    queued_ns: int = 0
    plan: Plan | None = None
    started_ns: int = 0


def stages_of_answer(received_ns: int, queued_ns: int, timings: StageTimings) -> tuple[Stage, ...]:
    """`admission`, `decode`, `queue` and `run`, which add up to the total.

    Within `run` are `preprocess` and `inference`, put at its beginning: what is left of it went into handing the plan
    over and the result back, and nobody has measured how much before and how much after.
    """
    decoding_ns, started_ns = queued_ns - timings.decode_ns, queued_ns + timings.queue_ns
    preprocessed_ns = started_ns + timings.preprocess_ns
    inner = (
        Stage("preprocess", started_ns, preprocessed_ns),
        Stage("inference", preprocessed_ns, preprocessed_ns + timings.inference_ns),
    )
    return (
        Stage("admission", received_ns, decoding_ns),
        Stage("decode", decoding_ns, queued_ns),
        Stage("queue", queued_ns, started_ns),
        Stage("run", started_ns, received_ns + timings.total_ns, inner),
    )


def stages_until(received_ns: int, progress: Progress | None, ended_ns: int) -> tuple[Stage, ...]:
    """The stages of a picture that ended without an answer; the last is the one it ended in. None: at the door.

    `received_ns` may be late by the moment that telling it took, and is only believed where nothing better is known.
    """
    if progress is None:
        return (Stage("admission", received_ns, ended_ns),)
    known_ns = received_ns if progress.request is None else progress.request.received_ns
    stages = [Stage("admission", min(known_ns, progress.admitted_ns), progress.admitted_ns)]
    if progress.request is None:
        return (*stages, Stage("decode", progress.admitted_ns, ended_ns))
    stages.append(Stage("decode", progress.admitted_ns, progress.queued_ns))
    if progress.plan is None:
        return (*stages, Stage("queue", progress.queued_ns, ended_ns))
    stages.append(Stage("queue", progress.queued_ns, progress.started_ns))
    return (*stages, Stage("run", progress.started_ns, ended_ns))
