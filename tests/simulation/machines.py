"""Menus of measured and published latencies to simulate: this kind of CPU, a GPU-shaped machine, two stores.

CPU figures: milliseconds of one image with one and two threads on a 2-core x86 server with AVX-512, ONNX
Runtime fp32 (Lite0–2 also int8), crop and resize included at 1.5 to 3 ms. A batch costs its size times one
image there, so only batch size 1 is listed. B1–B3 and B5–B7 were measured with one thread; two threads are
taken as 0.56 times that, the ratio of b0 and b4, where both were measured.

GPU figures: the shape, not the machine. Images a second at batch 1 and at large batch differ by a factor of 5 to
20 for this family on data-centre GPUs (EfficientNet throughput tables of NVIDIA's DeepLearningExamples, inference
on an A100, mixed precision); modelled as latency(b) = fixed + b * marginal with the marginal cost proportional to
the network's FLOPs (Tan and Le 2019, table 2) and a fixed cost that grows with depth.

Accuracies: published top-1 (Tan and Le 2019, table 2, for B0–B7; the Lite release table for Lite).
"""

from __future__ import annotations

from collections.abc import Callable

from service.core.menu import Choice, Menu
from tests.fakes.menus import choice

TWO_THREADS = 0.56
GPU_BATCHES = (1, 2, 4, 8, 16, 32)


def _cpu(name: str, top1: float, one_ms: float, two_ms: float) -> list[Choice]:
    return [choice(name, top1, {1: one_ms}), choice(name, top1, {1: two_ms}, threads=2)]


def cpu_lite() -> Menu:
    """Lite0–2 in fp32 and int8 on a 2-core CPU."""
    return Menu(
        [
            *_cpu("lite0", 75.1, 10.8, 6.5),
            *_cpu("lite1", 76.7, 16.0, 9.6),
            *_cpu("lite2", 77.6, 21.4, 12.5),
            *_cpu("lite0-int8", 74.4, 5.7, 3.7),
            *_cpu("lite1-int8", 75.9, 8.2, 5.1),
            *_cpu("lite2-int8", 77.0, 10.4, 7.1),
        ]
    )


_B = {
    "b0": (77.1, 11.9, 6.9, 0.39, 82),
    "b1": (79.1, 22, None, 0.70, 116),
    "b2": (80.1, 29, None, 1.0, 116),
    "b3": (81.6, 50, None, 1.8, 131),
    "b4": (82.9, 110, 61, 4.2, 161),
    "b5": (83.6, 257, None, 9.9, 194),
    "b6": (84.0, 493, None, 19, 224),
    "b7": (84.3, 1017, None, 37, 275),
}


def cpu_b() -> Menu:
    """B0–B7 in fp32 on a 2-core CPU."""
    choices = []
    for name, (top1, one_ms, two_ms, _, _) in _B.items():
        choices += _cpu(name, top1, one_ms + 2.5, (two_ms or one_ms * TWO_THREADS) + 2.5)
    return Menu(choices)


def gpu_b() -> Menu:
    """B0–B7 on a GPU-shaped machine: layers set the cost of a run, FLOPs the cost of one more image."""
    choices = []
    for name, (top1, _, _, gflops, layers) in _B.items():
        fixed_ms, marginal_ms = layers * 0.1, gflops * 1.25
        choices.append(choice(name, top1, {size: fixed_ms + size * marginal_ms for size in GPU_BATCHES}))
    return Menu(choices)


MACHINES: dict[str, tuple[Callable[[], Menu], int]] = {
    "cpu-lite": (cpu_lite, 2),
    "cpu-b": (cpu_b, 2),
    "gpu-b": (gpu_b, 1),
    "cpu-lite-8": (cpu_lite, 8),
}
"""Name to (menu, workers)."""
