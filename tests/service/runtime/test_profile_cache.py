"""A profile is measured once, and again whenever it is not of what is at hand."""

from __future__ import annotations

import dataclasses
import logging

import pytest

from model_store.latency_profile import LatencyPoint, LatencyProfile, MachineProfile, StageCost
from service.core.clock import MonotonicClock
from service.runtime import calibration
from service.runtime.profile_cache import Wanted, load_or_calibrate, profile_is_current, profile_path, why_stale
from service.runtime.providers import Provider
from service.runtime.session import open_sessions
from service.runtime.worker_pool import WorkerPool

WANTED = Wanted("a machine, 2 cores", "onnxruntime 1 cpu", 2, {"small": "aa", "large": "bb"}, (1, 2), (1,))


def latency(variant: str, threads: int = 1, sizes=(1, 2), each_ns: int = 1000) -> LatencyProfile:
    return LatencyProfile(variant, threads, tuple(LatencyPoint(size, size * each_ns) for size in sizes))


PROFILE = MachineProfile(
    schema_version=1,
    machine=WANTED.machine,
    runtime=WANTED.runtime,
    workers=2,
    model_sha256={"small": "aa", "large": "bb", "extra": "cc"},
    latencies=(latency("small"), latency("large"), latency("extra")),
    decode=StageCost(1, 1),
    overhead_ns=1,
)


def test_a_profile_of_all_that_is_wanted_is_current():
    """The same machine, runtime, workers and graphs at the same points: current, extra variants or not."""
    assert profile_is_current(PROFILE, WANTED)
    assert profile_is_current(dataclasses.replace(PROFILE, latencies=(*PROFILE.latencies, latency("small", 2))), WANTED)


@pytest.mark.parametrize(("change", "reason"), [
    ({"machine": "another, 8 cores"}, "of machine 'a machine, 2 cores', this is 'another, 8 cores'"),
    ({"runtime": "onnxruntime 2 cpu"}, "runtime"),
    ({"workers": 4}, "workers 2, this is 4"),
    ({"model_sha256": {"small": "changed"}}, "the graph of small has changed"),
    ({"model_sha256": {"new": "dd"}}, "new is not in"),
    ({"thread_widths": (1, 2)}, "small on 2 threads was not timed"),
    ({"batch_sizes": (1, 2, 4)}, "batch sizes [1, 2, 4]"),
    ({"batch_sizes": (2,)}, "batch sizes [2]"),
])  # fmt: skip
def test_anything_else_makes_it_stale_and_is_named(change, reason):
    """Each difference is found, and the reason says which."""
    wanted = dataclasses.replace(WANTED, **change)
    assert not profile_is_current(PROFILE, wanted)
    assert reason in why_stale(PROFILE, wanted)


def test_batch_sizes_that_were_too_slow_to_time_are_not_asked_for_again():
    """A profile that stopped at a batch of two because four takes too long covers a wish for four."""
    slow = dataclasses.replace(PROFILE, latencies=(latency("small", each_ns=10**9), latency("large", each_ns=10**9)))
    assert profile_is_current(slow, dataclasses.replace(WANTED, batch_sizes=(1, 2, 4)))


def test_the_file_is_named_for_a_reader_and_differs_by_all_that_matters(tmp_path):
    """The path shows the machine, lies under the store, and is another one for another runtime or worker count."""
    path = profile_path(tmp_path, WANTED)
    assert path.parent == tmp_path / "profiles"
    assert path.name.startswith("a-machine-2-cores-")
    others = [dataclasses.replace(WANTED, **change) for change in ({"runtime": "x"}, {"workers": 3}, {"machine": "A"})]
    assert len({path, *(profile_path(tmp_path, other) for other in others)}) == 4


@pytest.fixture
def entries(make_entry):
    return {"small": make_entry("small", 16), "large": make_entry("large", 24)}


@pytest.fixture
def pool(entries):
    pool = WorkerPool(1, open_sessions(entries.values(), (1,), Provider.CPU, batch_size_max=2), 2)
    yield pool
    assert pool.close(20_000_000_000)


@pytest.fixture
def load(tmp_path, pool, entries, monkeypatch, caplog):
    """Load or measure, and tell whether it was measured: `load()` gives (profile, log of this call)."""
    monkeypatch.setattr(calibration, "_DECODE_SIZES", ((40, 30), (80, 60)))
    monkeypatch.setattr(calibration, "POINT_NS", 1)
    caplog.set_level(logging.INFO, "service.runtime.profile_cache")

    def load(names=("small", "large"), batch_sizes=(1, 2)) -> tuple[MachineProfile, str]:
        caplog.clear()
        chosen = {name: entries[name] for name in names}
        profile = load_or_calibrate(
            tmp_path, pool, chosen, batch_sizes=batch_sizes, thread_widths=(1,), clock=MonotonicClock()
        )
        return profile, caplog.text

    return load


def test_a_second_start_reads_what_the_first_measured(load):
    """The first call measures and says that nothing was cached, the second returns equal figures silently."""
    measured, log = load()
    assert "no profile is cached" in log
    assert load() == (measured, "")


def test_only_what_was_asked_for_is_returned(load):
    """A cache that holds more variants than are loaded gives only those that are."""
    load()
    profile, log = load(names=("small",))
    assert log == ""
    assert {latency.variant for latency in profile.latencies} == {"small"} == set(profile.model_sha256)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1}', "\x00"])
def test_a_broken_cache_is_measured_again_and_mended(text, load, tmp_path):
    """Whatever is in the file, the start succeeds, the log says why it was measured, and the file is whole again."""
    load()
    (path,) = (tmp_path / "profiles").iterdir()
    path.write_text(text)
    profile, log = load()
    assert "the cached profile cannot be used" in log
    assert MachineProfile.from_json(path.read_bytes()) == profile


def test_a_stale_cache_is_replaced(load):
    """Asked for other batch sizes the profile is measured again, with the reason, and then kept."""
    load(batch_sizes=(1,))
    _, log = load(batch_sizes=(1, 2))
    assert "was not timed at batch sizes [1, 2]" in log
    assert load(batch_sizes=(1, 2))[1] == ""


def test_smaller_batches_are_known_from_larger_ones(load):
    """Asked for fewer sizes, those are given that were measured, and no larger batch for which there is no room."""
    load(batch_sizes=(1, 2))
    profile, log = load(batch_sizes=(1,))
    assert log == ""
    assert {latency.batch_size_limit for latency in profile.latencies} == {1}


def test_nothing_but_the_profile_is_left_in_the_folder(load, tmp_path):
    """Writing is by replacement; no temporary file stays behind."""
    load(batch_sizes=(1,))
    load()
    assert [path.suffix for path in (tmp_path / "profiles").iterdir()] == [".json"]


def test_a_store_that_cannot_be_written_costs_only_the_measurement(load, tmp_path):
    """Where the folder cannot be made the profile is returned all the same, with a warning."""
    (tmp_path / "profiles").write_text("a file where the folder should be")
    profile, log = load()
    assert len(profile.latencies) == 2
    assert "the next start measures again" in log
