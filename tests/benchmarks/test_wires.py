"""Streams' outcomes are counted by frame, and the report takes differences within rounds."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import AbstractContextManager

import pytest

from benchmarks.frame_streams import Outcomes, Pace, play
from benchmarks.wire_calls import KINDS, Took, measure
from benchmarks.wires import document
from service.errors import DeadlineExceeded
from service.frontends.rest_api import RestLimits, create_rest_api
from tests.fakes.engine import ScriptedEngine
from tests.fakes.grpc_classifier import grpc_classifier
from tests.fakes.http import running_server
from tests.fakes.menus import MS


class Neighbour(AbstractContextManager):
    """Notes that it came and went."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def __enter__(self) -> None:
        self.noted.append("came")

    def __exit__(self, *_: object) -> None:
        self.noted.append("went")


@pytest.mark.parametrize("disturbed", [True, False])
def test_every_frame_of_a_stream_is_counted(*, disturbed: bool) -> None:
    """Answered frames are in time, refused ones have their error's name, and a neighbour comes and goes once."""
    engine = ScriptedEngine()
    neighbour = Neighbour()
    with grpc_classifier(engine) as server:
        played = play(server.url, [b"picture"], Pace(None, 20.0, disturbed), frames=20, neighbour=neighbour)
        outcomes = asyncio.run(played)
    assert outcomes.names == ["in time"] * 20
    assert outcomes.in_time_by_quarter() == [100.0] * 4
    assert outcomes.variants.total() == 20
    assert neighbour.noted == (["came", "went"] if disturbed else [])


def test_refused_frames_are_counted_by_their_errors() -> None:
    """Every other frame is refused, and stands under its error's name in its own place."""
    refused = DeadlineExceeded("too short", smallest_feasible_budget_ns=30 * MS)
    engine = ScriptedEngine(failures={b"refused": refused})
    with grpc_classifier(engine) as server:
        images, neighbour = [b"picture", b"refused"], Neighbour()
        played = play(server.url, images, Pace(200.0, 20.0), frames=4, neighbour=neighbour)
        outcomes = asyncio.run(played)
    assert outcomes.names[::2] == ["in time"] * 2
    assert set(outcomes.names[1::2]) <= {"DeadlineExceeded", "stale"}


def test_each_kind_of_call_is_measured_by_what_the_server_counted() -> None:
    """All four kinds reach both front ends; what a call took beyond the server's own figure is its overhead."""
    engine = ScriptedEngine()
    api = create_rest_api(engine, limits=RestLimits(), metrics_page=lambda _: (b"", "text/plain"), version="1")
    with grpc_classifier(engine) as over_grpc, running_server(api) as port:
        url = f"http://127.0.0.1:{port}"
        (measured,) = asyncio.run(measure(url, over_grpc.url, "small", [b"picture"], rounds=1, calls=2))
    assert tuple(measured) == KINDS
    for took in measured.values():
        assert took.call_ms - took.overhead_ms == pytest.approx(9.0004, abs=0.01)


def test_the_report_takes_differences_within_rounds() -> None:
    """Two rounds, of which one is twice as slow: the difference and the ratio are each round's own."""
    rounds = [
        {KINDS[0]: Took(8, 1), KINDS[1]: Took(9, 2), KINDS[2]: Took(7, 0.5), KINDS[3]: Took(7.5, 0.75)},
        {KINDS[0]: Took(16, 2), KINDS[1]: Took(17, 4), KINDS[2]: Took(14, 1), KINDS[3]: Took(14.5, 1.5)},
    ]
    outcomes = Outcomes(["in time", "stale", "late", "DeadlineExceeded"], Counter({"lite0": 2}), 2.0)
    text = document(rounds, {Pace(30, 20.0): [outcomes]}, "command")
    assert "1.00 (1.00–1.00) ms in all, overhead × 2.00 (2.00–2.00) with phiserve's client" in text
    assert "| 30 frames/s, 20 ms | 25.0 | 25.0 | 25.0 | 25.0 | 0.5 | 100, 0, 0, 0 |" in text
