"""One admitted request between decoded and settled, one run between dispatched and over, and the answer of both."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from service.core.generation import Generation
from service.core.ports import DecodedImage
from service.core.request import Classification, Plan, Prediction, RequestOptions, RunResult, StageTimings
from service.errors import PhiserveError


@dataclass(slots=True, eq=False)
class Flight:
    """One admitted request, from decoded to settled."""

    options: RequestOptions
    budget_ns: int
    received_ns: int
    decode_ns: int
    submitted_ns: int
    idle_choice: str | None
    image: DecodedImage | None
    answer: asyncio.Future[Classification]
    dispatched_ns: int = 0
    run_ended_ns: int = 0
    generation: Generation | None = None
    """That whose workers run it; None while it waits."""

    def fail(self, error: PhiserveError) -> None:
        """It ends with `error`, unless it has ended."""
        if not self.answer.done():
            self.answer.set_exception(error)


@dataclass(slots=True, eq=False)
class Run:
    """A plan under way on `worker`; `result` and `ended_ns` once it is over."""

    worker: int
    plan: Plan
    generation: Generation
    started_ns: int
    ended_ns: int = 0
    result: RunResult | BaseException | None = None


def answer_of(request_id: int, flight: Flight, run: Run, now_ns: int) -> Classification:
    """What `run`, which is over, says of the picture of `flight`, handed over at `now_ns`."""
    plan, result = run.plan, run.result
    assert isinstance(result, RunResult), "a run that failed answers nobody"
    position = plan.request_ids.index(request_id)
    served = run.generation.served[plan.variant]
    predictions = tuple(
        Prediction(index, served.labels[index].wnid, served.labels[index].name, probability)
        for index, probability in result.top[position][: flight.options.top_k]
    )
    total_ns = now_ns - flight.received_ns
    return Classification(
        predictions=predictions,
        variant=served.manifest.variant,
        budget_ns=flight.budget_ns,
        budget_met=total_ns <= flight.budget_ns,
        timings=StageTimings(
            decode_ns=flight.decode_ns,
            queue_ns=flight.dispatched_ns - flight.submitted_ns,
            preprocess_ns=result.preprocess_ns,
            inference_ns=result.inference_ns,
            total_ns=total_ns,
        ),
        batch_size=len(plan.request_ids),
        degraded_from=_degraded_from(flight.idle_choice, run),
        probabilities=result.probabilities[position] if result.probabilities else b"",
    )


def _degraded_from(idle_choice: str | None, run: Run) -> str | None:
    """What load took away: the idle server's choice, if it is more accurate than the one used."""
    used = run.plan.variant
    if idle_choice is None or idle_choice == used:
        return None
    accuracy = {choice.variant.name: choice.accuracy for choice in run.generation.menu.choices}
    return idle_choice if accuracy[idle_choice] > accuracy[used] else None
