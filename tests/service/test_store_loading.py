"""A version of a store is loaded beside the one that serves: with what is known of it, or not at all."""

from __future__ import annotations

import gc
import shutil
import threading
import weakref
from pathlib import Path

import pytest

from model_store.builder import BuildRequest, build_store
from model_store.catalogue import StoreError
from model_store.sources import from_untrained
from service.core.clock import MonotonicClock
from service.runtime.providers import Provider
from service.settings import Settings
from service.store_loading import LoadedStore, Machine, StoreLoader, UnservableError

TRIES = 20
"""Of a few runs one may have been held up by another process; each time, it is not."""

pytestmark = pytest.mark.usefixtures("rough_figures")

MACHINE = Machine(Provider.CPU, workers=2, thread_widths=(1, 2), batch_sizes=(1,))


class Store:
    """A store on disk and what loads it, with every step that was reported."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.steps: list[str] = []
        settings = Settings(store=root, batch_size_max=1, workers=2, allow_untrained=True)
        self.loader = StoreLoader(settings, MACHINE, MonotonicClock())

    def build(self, **seeds: int) -> None:
        build_store(self.root, [BuildRequest(name, from_untrained(name, seed)) for name, seed in seeds.items()])

    def become(self, other: Path) -> None:
        """Show what was built into a copy of this one."""
        shutil.copytree(other, self.root, dirs_exist_ok=True)

    def step(self, stage: str, _done: int, _total: int) -> None:
        self.steps.append(stage)

    def beside(self, current: LoadedStore) -> LoadedStore | None:
        self.steps.clear()
        return self.loader.load_beside(current, self.step)


@pytest.fixture(scope="module")
def profiled(rough_figures, tmp_path_factory) -> Path:
    """A store of one variant, and its profile: measured once for all tests."""
    store = Store(tmp_path_factory.mktemp("profiled") / "store")
    store.build(lite0=0)
    store.loader.measure(store.step, force=False)
    return store.root


@pytest.fixture(scope="module")
def retrained(profiled, tmp_path_factory) -> Path:
    """The same network with other weights."""
    store = Store(shutil.copytree(profiled, tmp_path_factory.mktemp("retrained") / "store"))
    store.build(lite0=1)
    return store.root


@pytest.fixture(scope="module")
def grown(profiled, tmp_path_factory) -> Path:
    """With another network beside the first."""
    store = Store(shutil.copytree(profiled, tmp_path_factory.mktemp("grown") / "store"))
    store.build(b0=0)
    return store.root


@pytest.fixture
def store(profiled, tmp_path) -> Store:
    return Store(shutil.copytree(profiled, tmp_path / "store"))


@pytest.fixture
def current(store):
    loaded = store.loader.load(store.step)
    yield loaded
    loaded.close()


def latencies(loaded: LoadedStore) -> dict[tuple[str, int], object]:
    return {(latency.variant, latency.threads): latency.points for latency in loaded.generation.profile.latencies}


def workers() -> int:
    return sum(thread.name.startswith("worker-") for thread in threading.enumerate())


def test_the_same_store_is_not_loaded_again(store, current) -> None:
    """Nothing is read into a session when the store holds what is served."""
    assert store.beside(current) is None
    assert store.steps == []


def test_other_weights_of_a_network_are_as_quick_as_it(store, current, retrained) -> None:
    """Nothing is timed: what a run takes does not depend on the weights. What was timed is kept for nobody else."""
    (cached,) = (store.root / "profiles").iterdir()
    kept = cached.read_bytes()
    store.become(retrained)
    loaded = store.beside(current)
    assert loaded is not None
    loaded.close()
    assert "profiling" not in store.steps
    assert {"loading", "warming"} == set(store.steps)
    assert loaded.generation.version != current.generation.version
    assert latencies(loaded) == latencies(current)
    digests = (loaded.generation.profile.model_sha256, current.generation.profile.model_sha256)
    assert digests[0].keys() == digests[1].keys() == {"lite0"}
    assert digests[0] != digests[1]
    assert cached.read_bytes() == kept


def test_what_did_not_change_is_not_loaded_again(store, current, grown) -> None:
    """A graph that is served already is shared by both versions; one that was built anew is another session."""
    store.become(grown)
    second = store.beside(current)
    assert second is not None
    second.close()
    shared = {key: session for key, session in second.workers.sessions.items() if key[0] == "lite0"}
    assert shared == current.workers.sessions
    store.build(lite0=1)
    third = store.beside(second)
    assert third is not None
    third.close()
    same = [key for key in third.workers.sessions if third.workers.sessions[key] is second.workers.sessions[key]]
    assert {name for name, _ in same} == {"b0"}
    assert third.workers.sessions.keys() == second.workers.sessions.keys()


def test_a_version_that_only_has_less_loads_nothing(store, current, grown) -> None:
    """Every session is there already; the workers are new and warm, and what is gone is on no menu."""
    store.become(grown)
    second = store.beside(current)
    assert second is not None
    second.close()
    fewer = Settings(store=store.root, batch_size_max=1, workers=2, allow_untrained=True, variants=("lite0",))
    third = StoreLoader(fewer, MACHINE, MonotonicClock()).load_beside(second, store.step)
    assert third is not None
    third.close()
    assert third.workers.sessions == current.workers.sessions
    assert {choice.variant.name for choice in third.generation.menu.choices} == {"lite0"}


def test_a_network_that_is_not_known_is_timed_beside_one_that_is(store, current, grown) -> None:
    """It gets figures at every width, at the batch sizes that are planned here; the known one keeps its own."""
    store.become(grown)
    for _ in range(TRIES):
        loaded = store.beside(current)
        assert loaded is not None
        loaded.close()
        assert "profiling" in store.steps
        found = latencies(loaded)
        if all(points[0].latency_ns < 10 * found["lite0", 1][0].latency_ns for points in found.values()):
            break
    else:
        raise AssertionError(f"b0 does less than twice the work of lite0, and was never timed so: {found}")
    assert set(found) == {(name, threads) for name in ("lite0", "b0") for threads in (1, 2)}
    assert found["lite0", 1] == latencies(current)["lite0", 1]
    planned = {size for choice in current.generation.menu.choices for size in choice.batch_sizes}
    assert all({point.batch_size for point in found["b0", threads]} == planned for threads in (1, 2))
    assert all(points[0].latency_ns > 0 for points in found.values())


def test_a_profile_that_was_made_before_is_used(store, current, grown) -> None:
    """Whoever measures a version before it is rolled out has it loaded without another measurement."""
    store.become(grown)
    measured, _ = store.loader.measure(store.step, force=False)
    loaded = store.beside(current)
    assert loaded is not None
    loaded.close()
    assert "profiling" not in store.steps
    assert loaded.generation.profile == measured


def test_a_damaged_version_leaves_nothing_behind(store, current, retrained) -> None:
    """It is refused by the file, before anything of it is loaded, and a failure later ends what was begun."""
    store.become(retrained)
    (path,) = (path for path in store.root.glob("lite0/*/model.onnx") if path.parent != current.entries["lite0"].folder)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    before = workers()
    with pytest.raises(StoreError, match=str(path)):
        store.beside(current)
    assert store.steps == []
    path.write_bytes(content)

    def abandon(stage: str, _done: int, _total: int) -> None:
        if stage == "warming":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.loader.load_beside(current, abandon)
    assert workers() == before


def test_a_version_that_may_not_be_served_is_refused(store, current) -> None:
    """The operator's word holds for every version: without it, untrained weights do not take over."""
    strict = StoreLoader(Settings(store=store.root, batch_size_max=1, workers=2), MACHINE, MonotonicClock())
    with pytest.raises(UnservableError, match="--allow-untrained"):
        strict.load_beside(current, store.step)


def test_what_is_no_longer_served_is_freed(store) -> None:
    """When the workers of a version have ended and nobody holds it, its sessions and their weights are gone."""
    loaded = store.loader.load(store.step)
    sessions = [weakref.ref(session) for session in loaded.workers.sessions.values()]
    assert loaded.close()
    del loaded
    gc.collect()
    assert [session() for session in sessions] == [None, None]


def build_with_bf16(root: Path, *names: str) -> None:
    build_store(
        root,
        [
            BuildRequest(name, from_untrained("lite0", 0), float_type="bf16" if name.endswith("-bf16") else "fp32")
            for name in names
        ],
    )


def test_what_this_machine_cannot_compute_is_left_out(tmp_path, caplog) -> None:
    """One store is for many machines: bf16 is not served where it would be fp32, and the log says what would do it."""
    store = Store(tmp_path / "store")
    build_with_bf16(store.root, "lite0", "lite0-bf16")
    profile, menu = store.loader.measure(store.step, force=False)
    assert {latency.variant for latency in profile.latencies} == {"lite0"}
    assert {choice.variant.name for choice in menu.choices} == {"lite0"}
    assert "not served, lite0-bf16: bf16 is computed under OpenVINO alone" in caplog.text


@pytest.mark.parametrize(("built", "asked"), [(("lite0", "lite0-bf16"), ("lite0-bf16",)), (("lite0-bf16",), ())])
def test_a_start_for_what_cannot_be_computed_is_refused(tmp_path, built, asked) -> None:
    """Asked for by name, or all there is: the start fails and says what would work."""
    build_with_bf16(tmp_path / "store", *built)
    settings = Settings(store=tmp_path / "store", variants=asked, allow_untrained=True)
    with pytest.raises(UnservableError, match=r"cannot be served here: lite0-bf16: .*phiserve\[openvino\]"):
        StoreLoader(settings, MACHINE, MonotonicClock()).load(lambda *_: None)
