"""Runs between fixed buffers: the same answers as plain runs, for any number of images. On the CPU, to run anywhere."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnxruntime
import pytest

from service.runtime.bound_runs import BoundRuns
from tests.fakes.colour_models import colour_graph

NAMES = ["probabilities", "top_probabilities", "top_classes"]


def load() -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(colour_graph(), providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def session() -> onnxruntime.InferenceSession:
    return load()


@pytest.fixture(params=[False, True], ids=["plain", "graphs"])
def bound(request) -> BoundRuns:
    return BoundRuns({size: load() for size in (4, 1, 2)}, NAMES, graphs=request.param, device="cpu")


def pictures(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), np.uint8)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 11])
def test_any_number_of_images_gets_what_a_plain_run_gives(session, bound, count):
    """Between two prepared sizes and beyond the largest too, each image has its own outputs and no row is added."""
    for seed in range(3):
        batch = pictures(count, seed)
        for mine, plain in zip(bound.run(batch), session.run(NAMES, {"image": batch}), strict=True):
            assert np.array_equal(mine, plain)


def test_rows_are_the_next_size_prepared(bound):
    """A batch is filled up to the next size; one beyond the largest is run in pieces of that."""
    assert [bound.rows(images) for images in (1, 2, 3, 4, 5)] == [1, 2, 4, 4, 4]


def test_what_was_given_out_does_not_change(bound):
    """Outputs are copies: the next run, through the same buffers, leaves them as they were."""
    first = bound.run(pictures(2, 1))
    kept = [array.copy() for array in first]
    bound.run(pictures(2, 2))
    assert all(np.array_equal(array, copy) for array, copy in zip(first, kept, strict=True))


def test_runs_from_several_threads_take_turns(session, bound):
    """No thread sees the input of another."""
    batches = [pictures(1 + seed % 4, seed) for seed in range(40)]
    expected = [session.run(NAMES, {"image": batch})[0] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda batch: bound.run(batch)[0], batches))
    assert all(np.array_equal(mine, plain) for mine, plain in zip(found, expected, strict=True))
