"""Menus of made-up variants with round numbers, for tests and simulations of the core."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model_store.latency_profile import LatencyPoint, LatencyProfile
from model_store.manifest import ModelVariant
from service.core.batch_planner import BatchPlanner, PlannerSettings
from service.core.deadline_queue import DeadlineQueue
from service.core.load import LoadEstimator, LoadSettings
from service.core.menu import Choice, Menu
from service.core.scheduler import Scheduler, SchedulerSettings

MS = 1_000_000


def variant(name: str, top1: float | None, *, trained: bool = True) -> ModelVariant:
    return ModelVariant(
        name=name,
        member=name,
        precision="fp32",
        resolution=224,
        crop_fraction=0.875,
        interpolation="bicubic",
        class_count=1000,
        top1=top1,
        trained=trained,
    )


def profile(name: str, latency_ms_by_batch: Mapping[int, float], threads: int = 1) -> LatencyProfile:
    points = tuple(LatencyPoint(size, round(ms * MS)) for size, ms in latency_ms_by_batch.items())
    return LatencyProfile(name, threads, points)


def choice(name: str, top1: float, latency_ms_by_batch: Mapping[int, float], threads: int = 1) -> Choice:
    return Choice(variant(name, top1), top1, profile(name, latency_ms_by_batch, threads))


def cpu_menu() -> Menu:
    """Three variants whose batches cost their size times one image, as on CPUs."""
    return Menu(
        [
            choice("small", 75.0, {1: 10, 2: 20, 4: 40}),
            choice("medium", 77.0, {1: 20, 2: 40, 4: 80}),
            choice("large", 80.0, {1: 50, 2: 100, 4: 200}),
        ]
    )


def gpu_menu() -> Menu:
    """Three variants whose batches cost little more than one image, as on GPUs."""
    return Menu(
        [
            choice("small", 75.0, {1: 4, 2: 4.5, 4: 5.5, 8: 7.5, 16: 11.5}),
            choice("medium", 77.0, {1: 8, 2: 9, 4: 11, 8: 15, 16: 23}),
            choice("large", 80.0, {1: 20, 2: 23, 4: 29, 8: 41, 16: 65}),
        ]
    )


def two_width_menu() -> Menu:
    """Two variants, each on one core and, faster but dearer, on two."""
    return Menu(
        [
            choice("small", 75.0, {1: 10}),
            choice("small", 75.0, {1: 6}, threads=2),
            choice("large", 80.0, {1: 50}),
            choice("large", 80.0, {1: 30}, threads=2),
        ]
    )


def scheduler(
    menu: Menu,
    *,
    workers: int = 1,
    queue_size_max: int = 64,
    overhead_ns: int = 0,
    batch_size_max: int = 16,
    load: LoadSettings | None = None,
) -> Scheduler:
    estimator = LoadEstimator(menu, workers, load or LoadSettings())
    planner = BatchPlanner(menu, estimator, PlannerSettings(batch_size_max, overhead_ns))
    return Scheduler(planner, DeadlineQueue(queue_size_max), SchedulerSettings(workers, late_wait_ns_max=10_000 * MS))


def names(choices: Sequence[Choice]) -> list[str]:
    return [found.variant.name for found in choices]
