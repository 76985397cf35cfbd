"""Inference requests of the Open Inference Protocol, whichever wire they came on, into what the engine takes.

Reads tensors and parameters strictly: what would be ignored, and so be a surprise, is refused with what would have
worked. Decodes no picture and chooses no variant.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from service.core.engine import Engine
from service.core.request import Picture, RawPixels, RequestOptions
from service.errors import ImageTooLarge, InvalidArgument, MalformedRequest
from service.frontends.oip_models import IMAGE, INPUTS, PIXELS, PROBABILITIES, Model, Models
from service.frontends.oip_tensors import InputTensor, bytes_elements, element_count, shown, uint8_elements
from service.frontends.rest_parameters import ClassifyParameters

NS_PER_US = 1_000

# The same names as in the query of `POST /classify`. `variant` is what the routing model may be pinned by; that of a
# pinned model is its name.
_PARAMETERS = ("budget_ms", "min_accuracy", "target_ms", "priority", "on_miss")
_ROUTED_PARAMETERS = (*_PARAMETERS, "variant")

# What clients add by themselves and what changes nothing here: every picture stands alone, so sequences do not matter,
# and how tensors are written is the wire's business.
_WITHOUT_MEANING = frozenset(
    {"binary_data_output", "content_type", "headers", "sequence_id", "sequence_start", "sequence_end"}
)
_PREFIX_WITHOUT_MEANING = "triton_"


@dataclass(frozen=True, slots=True)
class OipLimits:
    """Bounds of one request.

    `image_bytes_max`: encoded bytes of one picture. `body_bytes_max`: bytes of a whole request, which bounds the memory
    it can hold. `images_max`: pictures in it. `top_k_max`: classes of a classification.
    """

    image_bytes_max: int
    body_bytes_max: int
    images_max: int
    top_k_max: int


@dataclass(frozen=True, slots=True)
class OutputRequest:
    """An output that was asked for, with its parameters as they came."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class InferCall:
    """A request as it came; an empty `version` is any, no `outputs` is the first one."""

    model: str
    version: str
    id: str
    parameters: Mapping[str, Any]
    inputs: tuple[InputTensor, ...]
    outputs: tuple[OutputRequest, ...]


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """An output of the answer. `classification`: the best so many classes as text, in place of every probability."""

    name: str
    classification: int | None = None


@dataclass(frozen=True, slots=True)
class InferWork:
    """What a request comes to: pictures that are answered alike, and which outputs tell of them."""

    model: Model
    pictures: tuple[Picture, ...]
    options: RequestOptions
    outputs: tuple[WantedOutput, ...]


class RequestReader:
    """Reads requests within a server's bounds."""

    def __init__(self, engine: Engine, models: Models, limits: OipLimits) -> None:
        """The engine is only asked for its bounds."""
        self._models = models
        self._limits = limits
        self._budget_ns_max = engine.budget_ns_max
        self._parameters = ClassifyParameters(
            budget_ns_default=engine.budget_ns_default, budget_ns_max=engine.budget_ns_max, top_k_max=limits.top_k_max
        )

    def read(self, call: InferCall, call_budget_ns: int | None = None) -> InferWork:
        """The work of `call`.

        Its budget is `budget_ms`, else `timeout`, else `call_budget_ns` (what the wire's own deadline leaves), the last
        two cut to the largest budget there is: they bound a wait and do not ask for one.

        Raises:
            UnknownVariant: no such model or version.
            MalformedRequest: inputs or outputs that no model has, or a tensor that is not what it says.
            InvalidArgument: a parameter that is unknown or out of range, or too many pictures.
            ImageTooLarge: a picture of too many bytes.
        """
        model = self._models.find(call.model, call.version)
        parameters = {name: value for name, value in call.parameters.items() if not _is_without_meaning(name)}
        classification = parameters.pop("classification", None)
        outputs = self._outputs(model, call.outputs, classification)
        options = self._options(model, parameters, call_budget_ns)
        top_k = max((output.classification or 1 for output in outputs), default=1)
        return InferWork(model, self._pictures(call.inputs), dataclasses.replace(options, top_k=top_k), outputs)

    def _options(self, model: Model, parameters: dict[str, Any], call_budget_ns: int | None) -> RequestOptions:
        timeout_ns = _timeout_ns(parameters.pop("timeout", 0))
        known = _PARAMETERS if model.variant is not None else _ROUTED_PARAMETERS
        options = self._parameters.read(_texts(parameters), known)
        wait_ns = timeout_ns or call_budget_ns
        if options.budget_ns is None and wait_ns is not None:
            options = dataclasses.replace(options, budget_ns=max(1, min(wait_ns, self._budget_ns_max)))
        if model.variant is not None:
            options = dataclasses.replace(options, policy=dataclasses.replace(options.policy, variant=model.variant))
        return options

    def _outputs(self, model: Model, asked: tuple[OutputRequest, ...], default: object) -> tuple[WantedOutput, ...]:
        names = [spec.name for spec in model.outputs]
        outputs = asked or (OutputRequest(names[0], {}),)
        if len({output.name for output in outputs}) < len(outputs):
            raise MalformedRequest("an output is asked for more than once; ask for each once")
        return tuple(self._output(output, names, default) for output in outputs)

    def _output(self, output: OutputRequest, names: list[str], default: object) -> WantedOutput:
        if output.name not in names:
            raise MalformedRequest(f"no output is named {shown(output.name)}; there are {', '.join(names)}")
        _refuse_shared_memory("output", output.name, output.parameters)
        count = output.parameters.get("classification", default if output.name == PROBABILITIES else None)
        if count is None:
            return WantedOutput(output.name)
        if output.name != PROBABILITIES:
            raise InvalidArgument(f"output {output.name} has no classification; {PROBABILITIES} has")
        text = str(count)
        if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= self._limits.top_k_max):
            raise InvalidArgument(f"classification must be an integer from 1 to {self._limits.top_k_max}")
        return WantedOutput(output.name, int(text))

    def _pictures(self, inputs: tuple[InputTensor, ...]) -> tuple[Picture, ...]:
        choice = " or ".join(f"{spec.name} ({spec.datatype} {list(spec.shape)})" for spec in INPUTS)
        if len(inputs) != 1:
            raise MalformedRequest(f"the request has {len(inputs)} inputs; send one: {choice}")
        tensor = inputs[0]
        spec = next((spec for spec in INPUTS if spec.name == tensor.name), None)
        if spec is None:
            raise MalformedRequest(f"no input is named {shown(tensor.name)}; send {choice}")
        if tensor.datatype != spec.datatype:
            raise MalformedRequest(f"input {spec.name} is {spec.datatype}, not {shown(tensor.datatype)}")
        count = element_count(tensor)
        pictures = tensor.shape[0]
        if pictures > self._limits.images_max:
            raise InvalidArgument(
                f"the request has {pictures} pictures, at most {self._limits.images_max} are taken; "
                "send the others in further requests"
            )
        return self._encoded(tensor, count) if spec is IMAGE else _raw(tensor, count)

    def _encoded(self, tensor: InputTensor, count: int) -> tuple[bytes, ...]:
        if tensor.shape not in {(count,), (count, 1)}:
            raise MalformedRequest(
                f"input {IMAGE.name} has shape {list(tensor.shape)}; send [pictures] or [pictures, 1], one element each"
            )
        pictures = bytes_elements(tensor, count)
        if max(map(len, pictures)) > self._limits.image_bytes_max:
            raise ImageTooLarge(
                f"at most {self._limits.image_bytes_max} bytes are taken for a picture; "
                "send a smaller or more strongly compressed image"
            )
        return pictures


def _raw(tensor: InputTensor, count: int) -> tuple[RawPixels, ...]:
    if len(tensor.shape) != 4 or tensor.shape[3] != 3:
        raise MalformedRequest(
            f"input {PIXELS.name} has shape {list(tensor.shape)}; send [pictures, height, width, 3], upright RGB"
        )
    pictures, height, width, _ = tensor.shape
    data, size = uint8_elements(tensor, count), count // pictures
    return tuple(RawPixels(width, height, data[start : start + size]) for start in range(0, count, size))


def check_input_parameters(name: str, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters of an input that say its data is somewhere else.

    Raises:
        InvalidArgument: shared memory, which a server of other machines does not have.
    """
    _refuse_shared_memory("input", name, parameters)


def _refuse_shared_memory(kind: str, name: str, parameters: Mapping[str, Any]) -> None:
    if any(parameter.startswith("shared_memory") for parameter in parameters):
        raise InvalidArgument(f"{kind} {shown(name)} is in shared memory, which is not served; send it in the request")


def _is_without_meaning(name: str) -> bool:
    return name in _WITHOUT_MEANING or name.startswith(_PREFIX_WITHOUT_MEANING)


def _timeout_ns(timeout: object) -> int | None:
    """Nanoseconds of Triton's `timeout`, which is in microseconds and none at 0 ("Schedule Policy Extension")."""
    text = str(timeout)
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise InvalidArgument(f"timeout must be an integer of microseconds, 0 for none, got {shown(text)}")
    return int(text) * NS_PER_US or None


def _texts(parameters: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Parameters as text, in which all of them can be written: clients differ in the types that they can send."""
    for name, value in parameters.items():
        if not isinstance(value, str | int | float):
            raise InvalidArgument(f"parameter {shown(name)} must be a number or a string")
        yield name, value if isinstance(value, str) else repr(value)
