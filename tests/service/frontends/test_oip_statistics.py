"""Statistics of the Open Inference Protocol add up what the core counted."""

from __future__ import annotations

from service.core.request import Plan, RunResult
from service.core.tally import Tally
from service.errors import InvalidImage
from service.frontends.oip_models import Model
from service.frontends.oip_statistics import Statistics
from tests.fakes.clock import FakeClock
from tests.fakes.engine import classification
from tests.fakes.menus import MS

LARGE, SMALL = Model("large", "large", 1000, None), Model("small", "small", 1000, None)
ROUTED = Model("efficientnet", None, 1000, None)


def rows_after(events) -> dict[str, dict]:
    clock = FakeClock()
    tally = Tally(clock)
    events(tally)
    clock.advance(5_000 * MS)
    statistics = Statistics(tally, clock.now_ns, lambda: 1_000_000_000 * MS)
    return {row["name"]: row for row in statistics.of([ROUTED, LARGE, SMALL])["model_stats"]}


def test_a_model_that_did_nothing_has_zeros() -> None:
    """Never is 0, as the protocol has it, and there are no batches."""
    for row in rows_after(lambda _: None).values():
        assert (row["last_inference"], row["inference_count"], row["execution_count"]) == (0, 0, 0)
        assert row["inference_stats"]["success"] == {"count": 0, "ns": 0}
        assert row["batch_stats"] == []


def test_the_routing_model_is_the_sum_of_the_variants() -> None:
    """Answers, stages and runs by batch size are each variant's own, and together the routing model's."""

    def events(tally: Tally) -> None:
        for name in ("large", "small", "small"):
            tally.request_settled(classification(name=name))
        tally.run_finished(Plan("large", 1, (1,), 0), RunResult((), 2 * MS, 5 * MS))
        tally.run_finished(Plan("small", 1, (2, 3), 0), RunResult((), 3 * MS, 7 * MS))
        tally.run_finished(Plan("small", 1, (4,), 0), RunResult((), 1 * MS, 1 * MS))

    rows = rows_after(events)
    assert {name: row["inference_count"] for name, row in rows.items()} == {"efficientnet": 3, "large": 1, "small": 2}
    assert {name: row["execution_count"] for name, row in rows.items()} == {"efficientnet": 3, "large": 1, "small": 2}
    stats = rows["small"]["inference_stats"]
    assert stats["success"] == {"count": 2, "ns": 2 * 9_000_400}
    assert stats["queue"] == {"count": 2, "ns": 500_000}
    assert stats["compute_input"] == {"count": 2, "ns": 4 * MS}
    assert stats["compute_infer"] == {"count": 2, "ns": 10 * MS}
    batches = {batch["batch_size"]: batch["compute_infer"] for batch in rows["efficientnet"]["batch_stats"]}
    assert batches == {1: {"count": 2, "ns": 6 * MS}, 2: {"count": 1, "ns": 7 * MS}}
    assert rows["large"]["batch_stats"][0]["compute_input"] == {"count": 1, "ns": 2 * MS}


def test_the_last_answer_is_told_in_milliseconds_since_1970() -> None:
    """An answer five seconds ago is five seconds before the wall clock's now, whatever the engine's clock says."""
    rows = rows_after(lambda tally: tally.request_settled(classification(name="large")))
    assert rows["large"]["last_inference"] == rows["efficientnet"]["last_inference"] == 1_000_000_000 - 5_000
    assert rows["small"]["last_inference"] == 0


def test_failures_are_the_routing_models_unless_a_run_failed() -> None:
    """Most requests fail before a variant is chosen; a failed run counts its requests for its variant as well."""

    def events(tally: Tally) -> None:
        tally.request_failed(InvalidImage("cut off"), admitted=False, waited_ns=3 * MS)
        tally.request_failed(InvalidImage("cut off"), admitted=True, waited_ns=4 * MS)
        tally.run_failed(Plan("large", 1, (1, 2), 0), RuntimeError())

    rows = rows_after(events)
    assert rows["efficientnet"]["inference_stats"]["fail"] == {"count": 2, "ns": 7 * MS}
    assert rows["large"]["inference_stats"]["fail"]["count"] == 2
    assert rows["small"]["inference_stats"]["fail"]["count"] == 0
