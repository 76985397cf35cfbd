"""Where graphs can run: ONNX Runtime's execution providers by our names, which of them are candidates, and for what.

Data only: nothing here loads ONNX Runtime or a graph. `provider_options.py` has what each is told.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

logger = logging.getLogger(__name__)


class Provider(StrEnum):
    """Where graphs run. `AUTO` is resolved by what is installed and, among several, by measurement."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"

    @property
    def on_cpu(self) -> bool:
        """Whether runs use the cores that everything else uses."""
        return self in (Provider.CPU, Provider.OPENVINO)

    @property
    def fixed_batches(self) -> bool:
        """Whether each batch size is prepared for, with kernels searched and memory laid out: others are filled up."""
        return self is Provider.CUDA


ORT_NAMES = {
    Provider.CPU: "CPUExecutionProvider",
    Provider.CUDA: "CUDAExecutionProvider",
    Provider.TENSORRT: "TensorrtExecutionProvider",
    Provider.OPENVINO: "OpenVINOExecutionProvider",
}
ENABLED_BY = {
    Provider.CUDA: "install the package phiserve[gpu] in place of phiserve[cpu], on a machine with an NVIDIA driver",
    Provider.TENSORRT: "install the packages phiserve[gpu] and tensorrt, on a machine with an NVIDIA driver",
    Provider.OPENVINO: "install the package phiserve[openvino] in place of phiserve[cpu]",
}
# TensorRT is never chosen unasked: building its engines takes minutes per variant at the first start.
_AUTO = (Provider.CUDA, Provider.OPENVINO, Provider.CPU)


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What one session is made for.

    `side_by_side` runs may go on at once: a provider with threads of its own is given enough for them. `cache_dir` is
    where a provider may keep what it compiled (None: nowhere), and `graph_key` names the content of what is compiled.
    On a GPU, `bound` keeps the buffers of
    runs at fixed addresses and `graphs` replays each batch size as one recorded graph; `overrides` replaces options of
    `provider_options.py` by name, to measure what they are worth.
    """

    threads: int
    batch_size_max: int
    side_by_side: int = 1
    device_id: int = 0
    cache_dir: Path | None = None
    graph_key: str = ""
    bound: bool = True
    graphs: bool = False
    overrides: tuple[tuple[str, str], ...] = ()

    def graph_folder(self, variant: str) -> Path | None:
        """Where what was compiled of this graph of `variant` lies; of other weights it lies elsewhere."""
        return None if self.cache_dir is None else self.cache_dir / variant / self.graph_key

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that a GPU is prepared for, rising from 1 to the largest."""
        return batch_sizes_up_to(self.batch_size_max, GPU_BATCH_STEP)


GPU_BATCH_STEP = 4
"""Between two batch sizes on a GPU: each costs seconds a variant at every start, and small ones take much the same."""


def batch_sizes_up_to(size_max: int, step: int = 2) -> tuple[int, ...]:
    """The batch sizes that are measured: powers of `step`, and the largest itself."""
    sizes = [1]
    while sizes[-1] * step <= size_max:
        sizes.append(sizes[-1] * step)
    if sizes[-1] != size_max:
        sizes.append(size_max)
    return tuple(sizes)


def candidates(requested: Provider, available: Collection[str]) -> tuple[Provider, ...]:
    """The providers to choose from, given ONNX Runtime's names of those available: more than one only for `AUTO`.

    One that was asked for by name but is not available falls back to the CPU, and the log says what would
    enable it: a server that answers slowly beats one that does not start.
    """
    if requested is Provider.AUTO:
        return tuple(p for p in _AUTO if p is Provider.CPU or ORT_NAMES[p] in available)
    if requested is not Provider.CPU and ORT_NAMES[requested] not in available:
        logger.warning(
            "provider %s is not available, running on the CPU; to enable it, %s", requested, ENABLED_BY[requested]
        )
        return (Provider.CPU,)
    return (requested,)
