"""What every peer serves: Pillow, ONNX Runtime and a network of the store, in the plain way of their documentation.

Decodes at full size, crops, resizes with Pillow and runs the same `model.onnx` as phiserve. Runs in a peer's
environment, which has neither phiserve nor its libraries: imports nothing of ours. Reads its settings from `PEER_*`
variables, since some peers parse the command line themselves.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from PIL import Image

TOP_K = 5


def port() -> int:
    """Where to listen, on 127.0.0.1."""
    return int(os.environ["PEER_PORT"])


def workers() -> int:
    """Processes or threads that run the network side by side; what the peer calls them is its own affair."""
    return int(os.environ.get("PEER_WORKERS", "1"))


def batch() -> int:
    """Largest batch, for peers that make batches; 1: none."""
    return int(os.environ.get("PEER_BATCH", "1"))


class PeerModel:
    """One session over the network of `PEER_MODEL` (a folder of the store), `PEER_THREADS` threads a run."""

    def __init__(self) -> None:
        folder = Path(os.environ["PEER_MODEL"])
        variant = json.loads((folder / "manifest.json").read_text())["variant"]
        self._side: int = variant["resolution"]
        self._crop_fraction: float = variant["crop_fraction"]
        self._resampling = Image.Resampling[variant["interpolation"].upper()]
        self._labels = [label["name"] for label in json.loads((folder / "labels.json").read_text())["labels"]]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get("PEER_THREADS", "1"))
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])

    def prepare(self, photograph: bytes) -> Any:
        """Pixels for the network, uint8 [side, side, 3]."""
        picture = Image.open(io.BytesIO(photograph)).convert("RGB")
        side = int(self._crop_fraction * min(picture.size))
        left, upper = (picture.width - side + 1) // 2, (picture.height - side + 1) // 2
        cropped = picture.crop((left, upper, left + side, upper + side))
        return np.asarray(cropped.resize((self._side, self._side), self._resampling))

    def run(self, pixels: Sequence[Any]) -> list[dict[str, Any]]:
        """The answer for each, in one run."""
        outputs: Any = self._session.run(["top_classes", "top_probabilities"], {"image": np.stack(pixels)})
        return [self._answer(classes, probabilities) for classes, probabilities in zip(*outputs, strict=True)]

    def classify(self, photograph: bytes) -> dict[str, Any]:
        """Five labelled classes, likeliest first."""
        return self.run([self.prepare(photograph)])[0]

    def _answer(self, classes: Any, probabilities: Any) -> dict[str, Any]:
        # The network itself gives the most probable classes, falling; phiserve takes them too.
        best = zip(classes[:TOP_K].tolist(), probabilities[:TOP_K].tolist(), strict=True)
        return {"classes": [{"label": self._labels[at], "probability": probability} for at, probability in best]}
