"""What `auto` means: the fastest provider that really runs here, found by running a network of the store."""

from __future__ import annotations

import logging
import re

import pytest

from model_store.builder import BuildRequest, build_store
from model_store.sources import from_untrained
from service import provider_choice
from service.core.clock import MonotonicClock
from service.provider_choice import choose_provider, fastest
from service.runtime.providers import Provider
from service.runtime.session import available_providers
from service.settings import Settings
from service.store_loading import UnservableError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    """A store of two untrained networks."""
    store = tmp_path_factory.mktemp("choice") / "store"
    build_store(store, [BuildRequest(name, from_untrained(name, 0)) for name in ("lite0", "b0")])
    return Settings(store=store, allow_untrained=True)


def test_a_provider_that_does_not_load_is_not_chosen(settings, caplog, monkeypatch):
    """A package that is said to have CUDA, where it cannot run, leaves the CPU, and the log gives the figures."""
    monkeypatch.setattr(provider_choice, "_ROUNDS", 1)  # one figure needs no others to be compared with
    caplog.set_level(logging.INFO)
    with pytest.warns(UserWarning, match="not in available provider names"):
        assert choose_provider(settings, 1, [CUDA, CPU], MonotonicClock()) is Provider.CPU
    assert "provider auto is cpu here; 8 images in the fastest precision of each take: cpu" in caplog.text
    assert "ms (b0)" in caplog.text
    assert "phiserve[gpu]" in caplog.text


@pytest.mark.skipif(OPENVINO not in available_providers(), reason="this ONNX Runtime has no OpenVINO")
def test_openvino_is_compared_where_it_is_installed(settings, caplog):
    """Both run the network, the log gives what each took and by how much the chosen one is ahead."""
    caplog.set_level(logging.INFO)
    chosen = choose_provider(settings, 1, [OPENVINO, CPU], MonotonicClock())
    other = {Provider.OPENVINO: Provider.CPU, Provider.CPU: Provider.OPENVINO}[chosen]
    (said,) = [record.getMessage() for record in caplog.records if "provider auto" in record.getMessage()]
    assert f"provider auto is {chosen} here" in said
    assert re.search(rf"{chosen} [0-9.]+ ms \(b0\)", said)
    assert re.search(rf"{other} [0-9.]+ ms \(b0\), [0-9.]+ times that of {chosen}", said)


def test_where_there_is_no_choice_nothing_is_run(tmp_path):
    """One provider installed, or one named: the store is not even read."""
    nothing = Settings(store=tmp_path / "none")
    assert choose_provider(nothing, 1, [CPU], MonotonicClock()) is Provider.CPU
    named = Settings(store=tmp_path / "none", provider="cuda")
    assert choose_provider(named, 1, [CUDA, CPU], MonotonicClock()) is Provider.CUDA


def test_a_choice_needs_something_to_serve(settings):
    """With more than one provider, a store of untrained networks alone is refused as it is at any start."""
    with pytest.raises(UnservableError, match="only untrained variants"):
        choose_provider(Settings(store=settings.store), 1, [CUDA, CPU], MonotonicClock())


@pytest.mark.parametrize(
    ("took_ns", "best"),
    [
        ({Provider.OPENVINO: 100, Provider.CPU: 150}, Provider.OPENVINO),
        ({Provider.OPENVINO: 100, Provider.CPU: 109}, Provider.CPU),
        ({Provider.OPENVINO: 100, Provider.CPU: 111}, Provider.OPENVINO),
        ({Provider.OPENVINO: 100, Provider.CPU: 60}, Provider.CPU),
        ({Provider.CUDA: 100, Provider.OPENVINO: 101}, Provider.CUDA),
        ({}, Provider.CPU),
    ],
)
def test_the_fastest_is_chosen_and_a_tie_changes_nothing(took_ns, best):
    """Who takes the least; where the CPU provider takes less than a tenth longer it stays, from start to start."""
    assert fastest(took_ns) is best
