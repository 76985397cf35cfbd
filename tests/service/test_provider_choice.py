"""What `auto` means: the fastest provider that really runs here, found by running a network of the store."""

from __future__ import annotations

import logging

import pytest

from model_store.builder import BuildRequest, build_store
from model_store.sources import from_untrained
from service.core.clock import MonotonicClock
from service.provider_choice import choose_provider
from service.runtime.providers import Provider
from service.settings import Settings
from service.store_loading import UnservableError

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Settings:
    """A store of two untrained networks."""
    store = tmp_path_factory.mktemp("choice") / "store"
    build_store(store, [BuildRequest(name, from_untrained(name, 0)) for name in ("lite0", "b0")])
    return Settings(store=store, allow_untrained=True)


def test_a_provider_that_does_not_load_is_not_chosen(settings, caplog):
    """A package that is said to have CUDA, where it cannot run, leaves the CPU, and the log gives the figures."""
    caplog.set_level(logging.INFO)
    with pytest.warns(UserWarning, match="not in available provider names"):
        assert choose_provider(settings, 1, [CUDA, CPU], MonotonicClock()) is Provider.CPU
    assert "8 images of b0 take: cpu" in caplog.text
    assert "phiserve[gpu]" in caplog.text


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
