"""The service config that deploy/kubernetes gives to gRPC clients, used on two real servers behind one name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from phiserve.v1.classifier_pb2 import ClassifyRequest
from phiserve.v1.classifier_pb2_grpc import ClassifierStub
from tests.fakes.engine import ScriptedEngine
from tests.fakes.grpc_classifier import RunningGrpc, grpc_classifier

SERVICES = Path(__file__).parents[2] / "deploy/kubernetes/base/service.yaml"
CAT = ClassifyRequest(image=b"cat")
CALLS_MAX = 2000
WAIT_S = 20


@pytest.fixture
def engines() -> tuple[ScriptedEngine, ScriptedEngine]:
    return ScriptedEngine(), ScriptedEngine()


@pytest.fixture
def servers(engines) -> Iterator[tuple[RunningGrpc, RunningGrpc]]:
    first, second = (grpc_classifier(engine) for engine in engines)
    with first as one, second as other:
        yield one, other


@pytest.fixture
def classify(servers) -> Iterator[grpc.UnaryUnaryMultiCallable]:
    """The method over a channel to both, with the config of the manifest's comment."""
    config = re.search(r"'({.*})'", SERVICES.read_text())
    assert config is not None
    assert json.loads(config[1])["loadBalancingConfig"] == [{"round_robin": {}}]
    target = "ipv4:" + ",".join(server.url.removeprefix("grpc://") for server in servers)
    with grpc.insecure_channel(target, options=[("grpc.service_config", config[1])]) as channel:
        yield ClassifierStub(channel).Classify


def call_until(classify, engines, is_enough) -> list[int]:
    """Call until the counts of calls of both servers are as wanted; every call must be answered."""
    for _ in range(CALLS_MAX):
        if is_enough(counts := [len(engine.calls) for engine in engines]):
            return counts
        classify(CAT, timeout=WAIT_S)
    raise AssertionError(f"never so: {counts}")


def test_a_client_spreads_its_calls_over_the_pods(classify, engines) -> None:
    """One channel uses both servers, each for every second call."""
    before = call_until(classify, engines, all)
    for _ in range(10):
        classify(CAT, timeout=WAIT_S)
    after = [len(engine.calls) for engine in engines]
    assert [new - old for old, new in zip(before, after, strict=True)] == [5, 5]


def test_a_pod_that_drains_gets_no_more_calls(classify, engines, servers) -> None:
    """From its notice on a draining server is left out, before it refuses anything, and no call fails."""
    call_until(classify, engines, all)
    servers[0].drain()
    recent: list[list[int]] = []

    def is_left_out(counts: list[int]) -> bool:
        recent.append(counts)
        return len(recent) > 20 and recent[-21][0] == counts[0]

    call_until(classify, engines, is_left_out)
