"""The composition root: what a machine runs is pure data, and what is built serves what the operator allowed."""

from __future__ import annotations

import asyncio
import shutil
import socket
from pathlib import Path

import pytest

from model_store.builder import BuildRequest, build_store
from model_store.sources import from_untrained, from_wheel
from service.app import StartError, build_server, profile_store, take_ports
from service.core.engine import Readiness
from service.core.request import RequestOptions, RoutingPolicy
from service.errors import NotReady, UnknownVariant
from service.runtime.providers import Provider
from service.settings import Settings
from service.store_loading import plan_machine

NS_PER_S = 1_000_000_000

pytestmark = pytest.mark.usefixtures("rough_figures")


@pytest.mark.parametrize(
    ("cores", "provider", "given", "workers", "widths"),
    [
        (1, Provider.CPU, {}, 1, (1,)),
        (2, Provider.CPU, {}, 2, (1, 2)),
        (16, Provider.CPU, {}, 16, (1, 16)),
        (16, Provider.OPENVINO, {}, 16, (1, 16)),
        (16, Provider.CUDA, {}, 1, (1,)),
        (16, Provider.TENSORRT, {"workers": 2}, 2, (1,)),
        (16, Provider.CPU, {"workers": 4}, 4, (1, 4)),
        (2, Provider.CPU, {"workers": 1}, 1, (1,)),
        (2, Provider.CPU, {"workers": 8}, 8, (1, 2)),
    ],
)
def test_a_worker_is_a_core_and_a_gpu_has_one(*, cores, provider, given, workers, widths) -> None:
    """On a CPU a run takes one core or all that workers have; a GPU is fed by one worker unless more are asked for."""
    machine = plan_machine(Settings(**given), cores, provider)
    assert (machine.provider, machine.workers, machine.thread_widths) == (provider, workers, widths)


@pytest.mark.parametrize(
    ("provider", "given", "batch", "resizers"),
    [
        (Provider.CPU, {}, 8, 0),
        (Provider.OPENVINO, {}, 8, 0),
        (Provider.CUDA, {}, 32, 8),
        (Provider.CUDA, {"batch_size_max": 5, "resize_threads": 3}, 5, 3),
        (Provider.CPU, {"batch_size_max": 1, "resize_threads": 2}, 1, 2),
    ],
)
def test_a_gpu_has_large_batches_and_help_with_resizing(provider, given, batch, resizers) -> None:
    """Where batches save much they are larger, and the idle cores crop and resize; what is asked for goes first."""
    machine = plan_machine(Settings(**given), 16, provider)
    assert (machine.batch_sizes[-1], machine.resize_threads) == (batch, resizers)


@pytest.fixture(scope="module")
def mixed_store(tmp_path_factory) -> Path:
    """Lite0 as it was trained, and an untrained B0."""
    store = tmp_path_factory.mktemp("mixed") / "store"
    build_store(store, [BuildRequest("lite0", from_wheel("lite0")), BuildRequest("b0", from_untrained("b0", 0))])
    return store


@pytest.fixture(scope="module")
def settings(mixed_store):
    """Settings of a small server on that store."""
    return lambda **given: Settings(**({"store": mixed_store, "batch_size_max": 1, "workers": 1} | given))


@pytest.fixture
def build(settings):
    """Builds servers as `phiserve serve` would, and ends their threads; notes the stages in `build.stages`."""
    servers = []

    def build(**given):
        servers.append(
            build_server(settings(**given), lambda stage, done, total: build.stages.append((stage, done, total)))
        )
        return servers[-1]

    build.stages = []
    yield build
    for server in servers:
        server.loaded.close()
        server.decoder.close()


def pinned(name: str) -> RequestOptions:
    return RequestOptions(budget_ns=NS_PER_S, top_k=1, policy=RoutingPolicy(variant=name))


def test_untrained_variants_are_shown_and_not_routed_to(build, caplog) -> None:
    """Without being allowed, an untrained variant is on the menu as not routable, and the log says how to serve it."""
    server = build()
    assert [(row.variant.name, row.routable) for row in server.engine.variants()] == [("lite0", True), ("b0", False)]
    assert server.engine.choose_when_idle(NS_PER_S) == "lite0"
    assert "not served, since untrained: b0 (--allow-untrained serves them)" in caplog.text


def test_asking_for_an_untrained_variant_says_why_not(build) -> None:
    """A request pinned to it is refused as unknown, with the reason and what there is."""
    engine = build().engine
    engine.open()

    async def ask() -> None:
        await engine.infer(b"never looked at", pinned("b0"), received_ns=engine.now_ns())

    with pytest.raises(UnknownVariant, match=r"'b0' is untrained.*lite0"):
        asyncio.run(ask())


def test_allowed_untrained_variants_rank_below_trained_ones(build) -> None:
    """Even with `--allow-untrained`, no budget gets an untrained variant while a trained one fits."""
    engine = build(allow_untrained=True).engine
    assert [(row.variant.name, row.routable) for row in engine.variants()] == [("lite0", True), ("b0", True)]
    assert engine.choose_when_idle(NS_PER_S) == "lite0"


def test_a_built_server_takes_no_request_before_it_is_opened(build) -> None:
    """Loaded, measured and warmed, in this order, and still starting: the port is opened by `run_server`."""
    server = build()
    stages = [stage for stage, _, _ in build.stages]
    assert sorted(set(stages), key=stages.index) in (["loading", "profiling", "warming"], ["loading", "warming"])
    assert all(0 <= done <= total for _, done, total in build.stages)
    assert server.engine.readiness is Readiness.STARTING
    with pytest.raises(NotReady, match="starting"):
        asyncio.run(server.engine.infer(b"", pinned("lite0"), received_ns=server.engine.now_ns()))


def test_a_profile_is_what_a_server_would_use(settings, build) -> None:
    """`profile_store` leaves the profile that `build_server` then finds, so that it measures nothing."""
    measured, menu = profile_store(settings(), lambda *_: None, force=True)
    assert {latency.variant for latency in measured.latencies} == {"lite0"}
    assert [(choice.variant.name, choice.threads) for choice in menu.choices] == [("lite0", 1)]
    (row, _) = build().engine.variants()
    assert row.latency_ns_by_batch == {1: {1: measured.latencies[0].points[0].latency_ns}}
    assert "profiling" not in {stage for stage, _, _ in build.stages}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"variants": ("b0",)}, "only untrained variants .b0.*--allow-untrained"),
        ({"variants": ("b0", "lite0")}, "asked to serve what is untrained .b0.*--allow-untrained"),
        ({"variants": ("b5",)}, "holds no b5; it holds b0, lite0"),
        ({"store": Path("/nowhere/at/all")}, "/nowhere/at/all.*phiserve store build"),
    ],
)
def test_what_cannot_be_served_is_refused(settings, given, message) -> None:
    """A start that makes no sense is refused with what would have worked, by the server and by `profile` alike."""
    with pytest.raises(StartError, match=message):
        build_server(settings(**given), lambda *_: None)
    with pytest.raises(StartError, match=message):
        profile_store(settings(**given), lambda *_: None, force=False)


def test_a_graph_that_cannot_be_loaded_is_refused_by_name(mixed_store, settings, tmp_path) -> None:
    """A file that was exchanged after the store was verified does not reach a session."""
    store = shutil.copytree(mixed_store, tmp_path / "store")
    (path,) = store.glob("lite0/*/model.onnx")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StartError, match=r"lite0.*model\.onnx"):
        build_server(settings(store=store), lambda *_: None)


@pytest.mark.parametrize(("setting", "flag"), [("port", "--port"), ("grpc_port", "--grpc-port")])
def test_a_port_in_use_is_a_start_error(setting, flag) -> None:
    """So that every reason not to start ends in the same kind of line, which names the flag that chooses another."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = {"port": 0, "grpc_port": 0} | {setting: other.getsockname()[1]}
        with pytest.raises(StartError, match=f"Address already in use.*choose another with {flag} or"):
            take_ports(Settings(**ports))


def test_ports_are_taken_and_not_open() -> None:
    """Both refuse callers until the server is ready; without gRPC there is no second one."""
    with take_ports(Settings(port=0, grpc_port=0)) as ports:
        for listener in (ports.http, ports.grpc):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(listener.getsockname(), 1)
    with take_ports(Settings(port=0, grpc="off")) as ports:
        assert ports.grpc is None
