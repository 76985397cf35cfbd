"""What the Open Inference Protocol calls models: one that routes by budget, and every variant under its own name.

Knows their metadata and whether they are ready; runs nothing and speaks no wire.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from service.core.engine import Engine, Readiness
from service.core.generation import VariantStatus
from service.errors import UnknownVariant
from service.frontends.oip_tensors import BYTES, FP32, UINT8, TensorSpec, shown

ROUTED_MODEL = "efficientnet"
"""The model whose variant each request's budget decides."""

VERSION = "1"
"""The only version of every model: a store serves one build of a variant."""

SERVER_NAME = "phiserve"
PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository(index)",
    "parameters",
    "statistics",
)

IMAGE = TensorSpec("image", BYTES, (-1,))
"""Encoded pictures, one an element: JPEG, PNG, WebP and whatever else is served."""

PIXELS = TensorSpec("pixels", UINT8, (-1, -1, -1, 3))
"""Instead of `image`: upright RGB pictures of one size, [pictures, height, width, 3]."""

PROBABILITIES = "probabilities"
LABEL = TensorSpec("label", BYTES, (-1,))
"""The name of each picture's most probable class."""

VARIANT = TensorSpec("variant", BYTES, (-1,))
"""The variant that answered each picture."""

INPUTS = (IMAGE, PIXELS)

_UNLOADED = "memory has no room for it now; a request for it waits until it is loaded, if its budget covers that"


@dataclass(frozen=True, slots=True)
class Model:
    """One model. `variant` is what it is pinned to; None: the budget decides.

    `unavailable` says why it answers nothing; None where it does. `class_count` is -1 where its variants differ.
    """

    name: str
    variant: str | None
    class_count: int
    unavailable: str | None

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What may be asked for; a request that asks for nothing gets the first."""
        return (TensorSpec(PROBABILITIES, FP32, (-1, self.class_count)), LABEL, VARIANT)


class Models:
    """Every model of an engine, fixed from its start on; only readiness changes."""

    def __init__(self, engine: Engine) -> None:
        """One model for each variant, and the one that routes between them."""
        self._engine = engine
        statuses = engine.variants()
        routed = Model(ROUTED_MODEL, None, _common(s.variant.class_count for s in statuses if s.routable), None)
        self.all = (routed, *(_pinned(status) for status in statuses))
        self._by_name = {model.name: model for model in self.all}

    def find(self, name: str, version: str = "") -> Model:
        """The model of that name; an empty version is any.

        Raises:
            UnknownVariant: there is no such model, or no such version of it.
        """
        model = self._by_name.get(name)
        if model is None:
            raise UnknownVariant(f"no model is named {shown(name)}; served are {', '.join(self._by_name)}")
        if version not in {"", VERSION}:
            raise UnknownVariant(f"model {name} has no version {shown(version)}; leave it out or say {VERSION!r}")
        return model

    @property
    def server_ready(self) -> bool:
        """Whether requests are asked for."""
        return self._engine.readiness is Readiness.READY

    def is_ready(self, model: Model) -> bool:
        """Whether requests for `model` are asked for."""
        return self.server_ready and model.unavailable is None and not self._is_unloaded(model)

    def state(self, model: Model) -> tuple[str, str]:
        """The state of a repository index, READY or UNAVAILABLE, and why."""
        if self.is_ready(model):
            return "READY", ""
        reason = model.unavailable or (
            _UNLOADED if self.server_ready else f"the server is {self._engine.readiness.value}"
        )
        return "UNAVAILABLE", reason

    def _is_unloaded(self, model: Model) -> bool:
        return any(s.variant.name == model.variant and s.routable and not s.loaded for s in self._engine.variants())


def _pinned(status: VariantStatus) -> Model:
    variant = status.variant
    unavailable = None if status.routable else "untrained, which this server was not told to serve"
    return Model(variant.name, variant.name, variant.class_count, unavailable)


def _common(counts: Iterable[int]) -> int:
    different = set(counts)
    return different.pop() if len(different) == 1 else -1
