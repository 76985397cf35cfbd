"""Runs on a GPU between fixed buffers in its memory: a session, buffers and, if wanted, a recorded graph a batch size.

ONNX Runtime plans the convolutions of a session anew whenever a batch has another size than the one before, which takes
seconds. And a CUDA graph that was recorded at one size must not be replayed once the session has run another: seen on
an H200, the replay reads memory that is gone. So each batch size has a session of its own, that never runs another,
and a batch of any other size is filled up to the next one there is.

With graphs, runs of the whole process take turns: while one is recorded, CUDA forbids other threads most of its calls.
Planning, the long part of a first run, holds up nobody. Recordings belong to the thread that made them: each thread
that runs makes its own. Knows no variant.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[Any]

_NO_GRAPH = -1
_GRAPH = 1
_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int64)": np.int64}

_recording = threading.Lock()
"""Held by whatever runs in a session with graphs, so that nothing does while one is recorded."""


class BoundRuns:
    """All runs of one graph at one thread width; `sessions` holds one for each batch size, of the same graph."""

    def __init__(
        self,
        sessions: Mapping[int, onnxruntime.InferenceSession],
        outputs: Sequence[str],
        *,
        graphs: bool,
        device: str = "cuda",
        device_id: int = 0,
    ) -> None:
        """`outputs` are the names of those wanted; `device` is "cuda", or "cpu" to try this without a GPU."""
        self._sizes = {
            rows: _Size(session, rows, outputs, graphs=graphs, device=(device, device_id))
            for rows, session in sorted(sessions.items())
        }

    def rows(self, images: int) -> int:
        """How many rows a batch of `images` is run with; what is in the rows beyond them does not matter."""
        return next((size for size in self._sizes if size >= images), max(self._sizes))

    def run(self, batch: Array) -> list[Array]:
        """The outputs for each image of `batch`, copied out; quickest where it has the rows that `rows` says."""
        rows = self.rows(len(batch))
        parts = [self._run(batch[start : start + rows], rows) for start in range(0, len(batch), rows)]
        return parts[0] if len(parts) == 1 else [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]

    def _run(self, batch: Array, rows: int) -> list[Array]:
        images = len(batch)
        if rows > images:
            batch = np.concatenate([batch, np.zeros((rows - images, *batch.shape[1:]), batch.dtype)])
        return [output[:images] for output in self._sizes[rows].run(batch)]


class _Size:
    """One batch size: its session, its buffers, and what threads have made ready to run it."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        rows: int,
        outputs: Sequence[str],
        *,
        graphs: bool,
        device: tuple[str, int],
    ) -> None:
        self._session = session
        self._turn = threading.Lock()
        self._gate = _recording if graphs else contextlib.nullcontext()
        self._planned: set[int] = set()
        (image,) = session.get_inputs()
        self._image = _buffer(image, rows, device)
        nodes = [node for name in outputs for node in session.get_outputs() if node.name == name]
        self._outputs = [_buffer(node, rows, device) for node in nodes]
        self._binding = session.io_binding()
        self._binding.bind_ortvalue_input(image.name, self._image)
        for node, output in zip(nodes, self._outputs, strict=True):
            self._binding.bind_ortvalue_output(node.name, output)
        self._replayed, self._unrecorded = _run_options(_GRAPH), _run_options(_NO_GRAPH)

    def run(self, batch: Array) -> list[Array]:
        """The outputs of a batch of just this size."""
        with self._turn:
            if threading.get_ident() not in self._planned:
                self._session.run_with_iobinding(self._binding, self._unrecorded)
                self._planned.add(threading.get_ident())
            with self._gate:
                self._image.update_inplace(batch)
                self._session.run_with_iobinding(self._binding, self._replayed)
                return [output.numpy().copy() for output in self._outputs]


def _buffer(node: onnxruntime.NodeArg, rows: int, device: tuple[str, int]) -> onnxruntime.OrtValue:
    shape = [rows, *node.shape[1:]]
    return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, _TYPES[node.type], *device)


def _run_options(graph: int) -> onnxruntime.RunOptions:
    """Options that name the graph to record or replay; a session without graphs does not read that."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options
