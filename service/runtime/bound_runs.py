"""Runs on a GPU between fixed buffers in its memory, one set for each batch size that was prepared for.

Nothing is allocated for a run, and since addresses stay the same, a run can be recorded once as a CUDA graph and
replayed: the kernels then follow each other without the processor's help. More than that, ONNX Runtime plans its
convolutions anew, which takes seconds, whenever a batch has another size than the one before; a replay plans nothing.
So a batch of another size is filled up to the next one that is recorded, and without graphs to the one size there is.

Runs take turns, those of other sessions in the process too: they would only take turns on the GPU, and while a graph
is recorded CUDA forbids other threads most of its calls. Planning, the long part of a first run, holds up nobody.
Recordings belong to the thread that made them: each thread that runs makes its own. Knows no variant.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime

Array = npt.NDArray[Any]

_NO_GRAPH = -1

_TYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int64)": np.int64}


_on_gpu = threading.Lock()
"""Held by whatever runs there, so that nothing does while a graph is recorded."""


@dataclass(frozen=True, slots=True, eq=False)
class _Bound:
    """Buffers of one batch size, bound; options that name its graph, and options for a run beside all graphs."""

    image: onnxruntime.OrtValue
    outputs: Sequence[onnxruntime.OrtValue]
    binding: onnxruntime.IOBinding
    replayed: onnxruntime.RunOptions
    unrecorded: onnxruntime.RunOptions


class BoundRuns:
    """All runs of one session."""

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        outputs: Sequence[str],
        batch_sizes: Sequence[int],
        device: str,
        device_id: int,
    ) -> None:
        """Nothing is allocated before a batch size is first run; `outputs` are the names of those wanted.

        `device` is "cuda", or "cpu" to try this without a GPU.
        """
        self._session = session
        self._outputs = [node for name in outputs for node in session.get_outputs() if node.name == name]
        (self._input,) = session.get_inputs()
        self._batch_sizes = tuple(batch_sizes)
        self._device = device, device_id
        self._bound: dict[int, _Bound] = {}
        self._turn = threading.Lock()
        self._planned: set[tuple[int, int]] = set()

    def rows(self, images: int) -> int:
        """How many rows a batch of `images` has when it is run; what is in the rows beyond them does not matter."""
        return next((size for size in self._batch_sizes if size >= images), images)

    def run(self, batch: Array) -> list[Array]:
        """The outputs for each image of `batch`, copied out; quickest where it has the rows that `rows` says."""
        images, rows = len(batch), self.rows(len(batch))
        if rows > images:
            batch = np.concatenate([batch, np.zeros((rows - images, *batch.shape[1:]), batch.dtype)])
        with self._turn:
            bound = self._bound.get(rows) or self._bound.setdefault(rows, self._bind(rows))
            if (threading.get_ident(), rows) not in self._planned:
                self._session.run_with_iobinding(bound.binding, bound.unrecorded)
                self._planned.add((threading.get_ident(), rows))
            with _on_gpu:
                return self._replay(bound, batch, images)

    def _replay(self, bound: _Bound, batch: Array, images: int) -> list[Array]:
        bound.image.update_inplace(batch)
        self._session.run_with_iobinding(bound.binding, bound.replayed)
        return [output.numpy()[:images].copy() for output in bound.outputs]

    def _bind(self, rows: int) -> _Bound:
        image = self._buffer(self._input, rows)
        outputs = [self._buffer(node, rows) for node in self._outputs]
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(self._input.name, image)
        for node, output in zip(self._outputs, outputs, strict=True):
            binding.bind_ortvalue_output(node.name, output)
        return _Bound(image, outputs, binding, _run_options(rows), _run_options(_NO_GRAPH))

    def _buffer(self, node: onnxruntime.NodeArg, rows: int) -> onnxruntime.OrtValue:
        shape = [rows, *node.shape[1:]]
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, _TYPES[node.type], *self._device)


def _run_options(graph: int) -> onnxruntime.RunOptions:
    """Options that name the graph to record or replay; a session without graphs does not read that."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph))
    return options
