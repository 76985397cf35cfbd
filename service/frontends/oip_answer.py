"""Answers of the engine as tensors and parameters of the Open Inference Protocol, whichever wire they leave on.

Nothing is computed here: probabilities are passed on bit by bit as the network gave them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from service.core.request import Classification, StageTimings
from service.errors import InferenceFailed
from service.frontends.oip_models import LABEL, PROBABILITIES, VARIANT, VERSION
from service.frontends.oip_request import InferCall, InferWork, WantedOutput
from service.frontends.oip_tensors import BYTES, FP32, OutputTensor

NS_PER_MS = 1_000_000
_FLOAT_BYTES = 4

ParameterValue = bool | int | float | str


@dataclass(frozen=True, slots=True)
class InferAnswer:
    """One request's answer. An empty `id` was not given."""

    model: str
    version: str
    id: str
    parameters: Mapping[str, ParameterValue]
    outputs: tuple[OutputTensor, ...]


def build_answer(call: InferCall, work: InferWork, answers: Sequence[Classification]) -> InferAnswer:
    """The answer to `call`, whose pictures were answered with `answers`, in order.

    Raises:
        InferenceFailed: variants with different classes answered, whose probabilities are no tensor together.
    """
    outputs = tuple(_output(wanted, answers) for wanted in work.outputs)
    return InferAnswer(work.model.name, VERSION, call.id, _parameters(answers), outputs)


def _output(wanted: WantedOutput, answers: Sequence[Classification]) -> OutputTensor:
    if wanted.classification is not None:
        return _classification(wanted.classification, answers)
    if wanted.name == PROBABILITIES:
        return _probabilities(answers)
    texts = {
        LABEL.name: [answer.predictions[0].label for answer in answers],
        VARIANT.name: [answer.variant.name for answer in answers],
    }
    return OutputTensor(wanted.name, BYTES, (len(answers),), tuple(text.encode() for text in texts[wanted.name]))


def _probabilities(answers: Sequence[Classification]) -> OutputTensor:
    lengths = {len(answer.probabilities) for answer in answers}
    if len(lengths) > 1:
        raise InferenceFailed(
            "the pictures were answered by variants with different classes; send them one by one, or name one variant "
            "as the model"
        )
    shape = (len(answers), lengths.pop() // _FLOAT_BYTES)
    return OutputTensor(PROBABILITIES, FP32, shape, b"".join(answer.probabilities for answer in answers))


def _classification(count: int, answers: Sequence[Classification]) -> OutputTensor:
    """The best classes as `value:index:label`, falling (Triton, "Classification Extension"), six digits as there."""
    count = min(count, *(len(answer.predictions) for answer in answers))
    elements = tuple(
        f"{best.probability:.6f}:{best.index}:{best.label}".encode()
        for answer in answers
        for best in answer.predictions[:count]
    )
    return OutputTensor(PROBABILITIES, BYTES, (len(answers), count), elements)


def _parameters(answers: Sequence[Classification]) -> dict[str, ParameterValue]:
    """What `POST /classify` tells beside its predictions; of several pictures each the worst."""

    def slowest_ms(stage: Callable[[StageTimings], int]) -> float:
        return round(max(stage(answer.timings) for answer in answers) / NS_PER_MS, 3)

    parameters: dict[str, ParameterValue] = {
        "variant": _each_once(answer.variant.name for answer in answers),
        "trained": all(answer.variant.trained for answer in answers),
        "budget_ms": answers[0].budget_ns / NS_PER_MS,
        "budget_met": all(answer.budget_met for answer in answers),
        "decode_ms": slowest_ms(lambda timings: timings.decode_ns),
        "queue_ms": slowest_ms(lambda timings: timings.queue_ns),
        "preprocess_ms": slowest_ms(lambda timings: timings.preprocess_ns),
        "inference_ms": slowest_ms(lambda timings: timings.inference_ns),
        "total_ms": slowest_ms(lambda timings: timings.total_ns),
        "batch_size": max(answer.batch_size for answer in answers),
    }
    if degraded_from := _each_once(answer.degraded_from or "" for answer in answers):
        parameters["degraded_from"] = degraded_from
    return parameters


def _each_once(names: Iterable[str]) -> str:
    return ", ".join(name for name in dict.fromkeys(names) if name)
