"""gRPC calls by h2load: what it sends, what is read of it, and no figures of a run with failures."""

from __future__ import annotations

import shutil

import pytest

from benchmarks import h2load
from benchmarks.bound import CLASSIFY
from phiserve.v1 import classifier_pb2 as pb
from tests.fakes.engine import ScriptedEngine
from tests.fakes.grpc_classifier import grpc_classifier

CLEAN = """starting benchmark...
finished in 1.80s, 110.67 req/s, 43.75KB/s
requests: 3 total, 3 started, 3 done, {good} succeeded, {failed} failed, 0 errored, 0 timeout
status codes: {good} 2xx, 0 3xx, 0 4xx, 0 5xx
"""
LOG = "1795806032064099\t200\t82741\n1795806032079314\t200\t75647\n1795806032090838\t200\t78209\n"


@pytest.mark.skipif(shutil.which("h2load") is None, reason="needs h2load (apt install nghttp2-client)")
def test_every_message_is_called_and_what_is_told_is_measured() -> None:
    """A real server gets each message, whole and understood, and the figures are those of its answers."""
    engine = ScriptedEngine()
    messages = [pb.ClassifyRequest(image=image, variant="small").SerializeToString() for image in (b"one", b"two")]
    with grpc_classifier(engine) as server:
        load = h2load.call(server.url, CLASSIFY, messages, concurrency=2, duration_s=0.4)
    assert {asked.image for asked in engine.calls} == {b"one", b"two"}
    assert {asked.options.policy.variant for asked in engine.calls} == {"small"}
    assert load.per_s > 0
    assert load.p50_ms > 0


def test_rate_and_times_are_read() -> None:
    """The rate is what h2load prints, of its measured part alone; times are those of its log, in milliseconds."""
    turn = h2load.parse(CLEAN.format(good=3, failed=0), LOG)
    assert turn == h2load.Turn(110.67, [82.741, 75.647, 78.209])


def test_turns_are_mixed_by_equal_counts() -> None:
    """A quick message, answered more often in the same time, counts no more than a slow one."""
    load = h2load.mixed([h2load.Turn(100.0, [10.0] * 100), h2load.Turn(50.0, [20.0] * 49 + [21.0])])
    assert load.per_s == pytest.approx(2 / (1 / 100 + 1 / 50))
    assert load.p50_ms == pytest.approx(15.0)


@pytest.mark.parametrize(
    ("printed", "log"),
    [
        (CLEAN.format(good=2, failed=1), LOG),
        (CLEAN.format(good=3, failed=0), LOG.replace("200\t75647", "503\t75647")),
        (CLEAN.format(good=3, failed=0), ""),
    ],
)
def test_a_run_with_failures_has_no_figures(printed: str, log: str) -> None:
    """A rate that counts refusals, or one of nothing, would flatter."""
    with pytest.raises(h2load.H2LoadError, match="not every call was answered"):
        h2load.parse(printed, log)


def test_text_of_something_else_is_refused() -> None:
    """What has no rate in it is not h2load's."""
    with pytest.raises(h2load.H2LoadError, match="not what h2load prints"):
        h2load.parse("hello", LOG)


def test_load_stays_on_this_machine() -> None:
    """Another host is refused before anything is sent."""
    with pytest.raises(ValueError, match="only sent to this machine"):
        h2load.call("grpc://198.51.100.7:80", CLASSIFY, [b""], concurrency=1, duration_s=1)


def test_without_h2load_the_error_says_how_to_get_it(monkeypatch) -> None:
    """The message names the package."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(h2load.H2LoadError, match="apt install nghttp2-client"):
        h2load.call("grpc://127.0.0.1:9", CLASSIFY, [b""], concurrency=1, duration_s=1)
