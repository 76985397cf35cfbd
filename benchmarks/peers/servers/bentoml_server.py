"""BentoML: a service whose API takes the photograph as the body itself. `PEER_WORKERS` worker processes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import bentoml
from bentoml.validators import ContentType

from benchmarks.peers import peer_model

# Evaluated here: BentoML reads signatures, and a root input is a positional-only parameter.
Photograph = Annotated[Path, ContentType("image/jpeg")]


@bentoml.service(
    workers=peer_model.workers(),
    traffic={"timeout": 60},
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
)
class Classify:
    """One a worker process."""

    def __init__(self) -> None:
        self._model = peer_model.PeerModel()

    @bentoml.api(route="/classify")
    def classify(self, photograph: Photograph, /) -> dict[str, Any]:
        """One photograph."""
        return self._model.classify(photograph.read_bytes())
