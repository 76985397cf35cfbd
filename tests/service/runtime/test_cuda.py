"""The CUDA provider on a real GPU: the answers of the CPU, from graphs that are replayed, for any batch and thread.

Skipped where ONNX Runtime's package has no CUDA provider or finds no GPU.
"""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest

from model_store.builder import BuildRequest, build_variant
from model_store.manifest import ModelVariant
from model_store.sources import from_untrained
from service.core.clock import MonotonicClock
from service.core.request import Plan, RunResult
from service.runtime.providers import Provider, SessionOptions
from service.runtime.session import Session, available_providers
from service.runtime.worker_pool import WorkerPool
from tests.fakes.colour_models import colour_graph, variant_of

BATCH = 8


@functools.cache
def gpu_is_there() -> bool:
    if "CUDAExecutionProvider" not in available_providers():
        return False
    return Session(colour_graph(), variant_of(), SessionOptions(1, 1), Provider.CUDA).provider is Provider.CUDA


@pytest.fixture(scope="module", autouse=True)
def _gpu():
    if not gpu_is_there():
        pytest.skip("no GPU that ONNX Runtime can use")


@functools.cache
def built(member: str, *, half: bool) -> tuple[bytes, ModelVariant]:
    content = build_variant(BuildRequest(member, from_untrained(member, 1), float_type="fp16" if half else "fp32"))
    return content.files["model.onnx"], content.manifest.variant


def on(provider: Provider, member: str = "b0", *, half: bool = False, **options) -> Session:
    return Session(*built(member, half=half), SessionOptions(1, BATCH, **options), provider)


def pictures(count: int, side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), np.uint8)


@pytest.mark.parametrize(("half", "tolerance"), [(False, 1e-4), (True, 5e-2)])
@pytest.mark.parametrize("member", ["lite0", "b0"])
def test_the_gpu_answers_as_the_cpu(member, half, tolerance):
    """Probabilities of fp32 agree closely and those of fp16 to its rounding, for every batch size, prepared or not.

    Networks of noise are sure of one class, so that fp16 moves their probabilities more than those of trained ones.
    """
    cpu, gpu = on(Provider.CPU, member), on(Provider.CUDA, member, half=half)
    assert gpu.provider is Provider.CUDA
    for count in (1, 3):
        images = pictures(count, cpu.variant.resolution, count)
        exact, found = cpu.run(images), gpu.run(images)
        assert found.shape == exact.shape
        assert np.abs(found - exact).max() < tolerance * exact.max()


def test_a_replayed_graph_reads_what_is_there_now():
    """Runs at one batch size, recorded once, follow their input, and the same input gives the same answer again."""
    cpu, gpu = on(Provider.CPU), on(Provider.CUDA, graphs=True)
    side = cpu.variant.resolution
    first = gpu.run(pictures(2, side, 0))
    for seed in range(1, 6):
        images = pictures(2, side, seed)
        exact = cpu.run(images)
        assert np.abs(gpu.run(images) - exact).max() < 1e-4 * exact.max()
    assert np.array_equal(gpu.run(pictures(2, side, 0)), first)


@pytest.mark.parametrize("options", [{}, {"graphs": True}])
def test_threads_get_their_own_answers(options):
    """Runs from several threads on one session, at changing batch sizes, are not mixed up, recorded or not."""
    cpu, gpu = on(Provider.CPU), on(Provider.CUDA, **options)
    batches = [pictures(1 + seed % 4, cpu.variant.resolution, seed) for seed in range(12)]
    expected = [cpu.run(batch) for batch in batches]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(gpu.run, batches * 3))
    for mine, exact in zip(found, expected * 3, strict=True):
        assert np.abs(mine - exact).max() < 1e-4 * exact.max()


def test_recorded_graphs_of_several_sizes_and_networks_live_side_by_side():
    """Each of several batch sizes and precisions is replayed after all the others were recorded, over and over."""
    cpu = on(Provider.CPU)
    gpus = [(on(Provider.CUDA, half=half, graphs=True), tolerance) for half, tolerance in ((False, 1e-4), (True, 5e-2))]
    for seed in range(3):
        for count in (8, 1, 4):
            images = pictures(count, cpu.variant.resolution, seed)
            exact = cpu.run(images)
            for gpu, tolerance in gpus:
                assert np.abs(gpu.run(images) - exact).max() < tolerance * exact.max()


def test_the_best_classes_are_those_of_the_probabilities():
    """The classes that the GPU sorts are the most probable ones, falling."""
    gpu = on(Provider.CUDA, half=True)
    probabilities, top = gpu.classify(pictures(3, gpu.variant.resolution), 5)
    for row, best in zip(probabilities, top, strict=True):
        assert [p for _, p in best] == sorted(row.tolist(), reverse=True)[:5]
        assert all(float(row[index]) == probability for index, probability in best)


def test_int8_runs_too():
    """An int8 graph, parts of which no GPU kernel takes, is answered all the same."""
    from model_store.activation_ranges import committed_ranges  # noqa: PLC0415 -- only here
    from model_store.builder import Quantisation  # noqa: PLC0415 -- as above
    from model_store.sources import from_wheel  # noqa: PLC0415 -- as above

    content = build_variant(BuildRequest("lite0-int8", from_wheel("lite0"), Quantisation(committed_ranges("lite0"))))
    model, variant = content.files["model.onnx"], content.manifest.variant
    cpu, gpu = (Session(model, variant, SessionOptions(1, 2), provider) for provider in (Provider.CPU, Provider.CUDA))
    images = pictures(2, variant.resolution)
    assert np.abs(cpu.run(images) - gpu.run(images)).max() < 0.05


def test_workers_run_side_by_side_after_warming(plain):
    """Two workers over one GPU, warmed at every size, give each picture its class, whichever of them ran it."""
    import queue  # noqa: PLC0415 -- only here

    model, variant = colour_graph(), replace(variant_of(), name="tiny")
    session = Session(model, variant, SessionOptions(1, 4), Provider.CUDA)
    pool = WorkerPool(2, {("tiny", 1): session}, 4, clock=MonotonicClock(), helpers=2)
    pool.warm({("tiny", 1): (1, 2, 4)})
    results: queue.SimpleQueue[RunResult | BaseException] = queue.SimpleQueue()
    for _ in range(10):
        for worker in (0, 1):
            images = [plain("red"), plain("lime"), plain("blue")]
            pool.start_run(worker, Plan("tiny", 1, (0, 1, 2), 0), images, 1, results.put)
        for _ in (0, 1):
            result = results.get(timeout=60)
            assert isinstance(result, RunResult), result
            assert [best[0][0] for best in result.top] == [0, 1, 2]
            assert len(result.probabilities) == 3
    assert pool.close(20_000_000_000)
