"""A cell of the study: the same traffic for all, nobody above the bound, and rows that average what they say."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.simulation.arrivals import arrivals
from tests.simulation.machines import MACHINES
from tests.simulation.study import (
    NS_PER_S,
    WARM_UP_NS,
    Cell,
    Recording,
    Result,
    Score,
    Traffic,
    capacity_per_s,
    planner_of,
    run_cell,
    run_cells,
    simulate,
    traffic_of,
    traffics,
)
from tests.simulation.table import HEADER, cells_of, markdown, plain, rows, worst

SMALL = Cell("cpu-b", "gamma cv2=4", 0.7, seed=1, requests=150, improve_rounds=1)


@pytest.fixture(scope="module")
def result() -> Result:
    return run_cell(SMALL)


def score(effective_accuracy: float) -> Score:
    return Score(effective_accuracy, 1.0, 1.0, 0.0)


def made_up(ours: float, static: float, bound: float | None, *, load: float = 0.5, seed: int = 1) -> Result:
    cell = Cell("cpu-b", "poisson", load, seed, 10)
    statics = {"b0 on 1": score(static), "b1 on 1": score(static - 1)}
    baselines = dict.fromkeys(("maxacc", "maxbatch", "slackfit"), score(20.0))
    return Result(cell, 10, score(ours), statics, baselines, bound, None)


def test_nobody_is_above_the_bound(result: Result) -> None:
    """No policy, and no clairvoyant schedule, passes the bound of its cell."""
    everybody = [result.ours, *result.statics.values(), *result.baselines.values()]
    assert result.bound is not None
    assert result.clairvoyant is not None
    assert max(one.effective_accuracy for one in everybody) <= result.bound
    assert result.ours.effective_accuracy <= result.clairvoyant + 1e-9
    assert result.clairvoyant <= result.bound


def test_every_choice_is_tried_alone(result: Result) -> None:
    """The best static variant in hindsight is picked among all variants at both widths."""
    assert len(result.statics) == 16
    assert {"b0 on 1", "b0 on 2", "b7 on 2"} <= set(result.statics)
    assert set(result.baselines) == {"maxacc", "maxbatch", "slackfit"}


def test_a_cell_is_its_seed(result: Result) -> None:
    """The same cell gives the same scores again; another seed gives others."""
    again, other = run_cells([SMALL, dataclasses.replace(SMALL, seed=2)], processes=1)
    assert again == result
    assert other.ours != result.ours


def test_noise_has_no_bound() -> None:
    """With noisy runs neither bound nor clairvoyant schedule is given: both hold for runs of known length."""
    noisy = run_cell(dataclasses.replace(SMALL, noise=0.1))
    assert (noisy.bound, noisy.clairvoyant) == (None, None)
    assert 0 < noisy.ours.effective_accuracy < 100


@pytest.mark.parametrize("kind", ["poisson", "gamma cv2=8", "ramp", "diurnal", "trace"])
def test_traffic_has_the_load_and_a_warm_up(kind: str, tmp_path: Path) -> None:
    """The counted arrivals come after the warm-up, at the stated fraction of capacity on average."""
    if kind == "trace":
        path = tmp_path / "trace.csv"
        path.write_text("".join(f"{7 * index},1,300\n" for index in range(9000)))
        kind = traffics(tmp_path)[-1]
    cell = Cell("cpu-lite", kind, 0.5, seed=1, requests=4000)
    traffic = traffic_of(cell)
    assert all(arrival.at_ns < WARM_UP_NS for arrival in traffic.warm_up)
    assert all(arrival.at_ns >= WARM_UP_NS for arrival in traffic.counted)
    lasted_s = (traffic.counted[-1].at_ns - WARM_UP_NS) / 1e9
    assert len(traffic.counted) / lasted_s == pytest.approx(0.5 * capacity_per_s("cpu-lite"), rel=0.15)
    assert traffic.warm_up


def test_a_trace_shorter_than_the_warm_up_still_counts(tmp_path: Path) -> None:
    """Three times its capacity uses up a short trace in the warm-up: it starts over, and is searched."""
    (tmp_path / "trace.csv").write_text("".join(f"{7 * index},1\n" for index in range(500)))
    found = run_cell(Cell("cpu-lite", traffics(tmp_path)[-1], 3.0, seed=1, requests=50, improve_rounds=1))
    assert found.requests == pytest.approx(50, abs=10)
    assert found.clairvoyant is not None
    assert found.ours.effective_accuracy <= found.clairvoyant + 1e-9


def test_rows_average_over_seeds() -> None:
    """One row for the seeds of a cell: means of scores, and ratio and headroom of the means."""
    (row,) = rows([made_up(70, 60, 80, seed=1), made_up(74, 62, 84, seed=2)])
    assert row.bound == pytest.approx(82)
    assert row.ratio == pytest.approx(72 / 82)
    assert row.best_static == "b0 on 1"
    assert row.static() == pytest.approx(61)
    assert row.headroom_captured == pytest.approx((72 - 61) / (82 - 61))
    assert len(cells_of(row)) == len(HEADER)


def test_rows_keep_loads_apart() -> None:
    """Cells of different loads are different rows, in their order."""
    found = rows([made_up(70, 60, 80, load=0.5), made_up(50, 60, 80, load=1.0), made_up(70, 60, 80, load=0.5, seed=2)])
    assert [row.load for row in found] == [0.5, 1.0]
    assert len(found[0].results) == 2


def test_missing_numbers_are_dashes() -> None:
    """Without a bound there is neither ratio nor headroom, and where the bound is all but reached no headroom."""
    (unbounded,) = rows([made_up(70, 60, None)])
    assert (unbounded.ratio, unbounded.headroom_captured) == (None, None)
    assert cells_of(unbounded).count("–") == 4
    (full,) = rows([made_up(70, 69.99, 70)])
    assert full.headroom_captured is None


def test_missed_goals_are_counted() -> None:
    """A row below a baseline, below the ratio or below the headroom that is aimed for is counted as such."""
    found = rows([made_up(59, 60, 80, load=0.5), made_up(79, 60, 80, load=1.0)])
    assert worst(found) == {
        "ratio to the bound": 1,
        "below a baseline": 1,
        "admitted in time": 0,
        "headroom captured": 1,
    }


def test_tables_line_up() -> None:
    """Plain text columns start at the same place on every line; Markdown has a rule under the header."""
    table = [("load", "ours"), ("0.5", "70.00"), ("10", "7")]
    assert plain(table) == "load  ours\n0.5   70.00\n10    7"
    assert markdown(table) == "| load | ours |\n|---|---|\n| 0.5 | 70.00 |\n| 10 | 7 |"


@pytest.mark.parametrize(("noise", "kept"), [(0.0, 0.999), (0.1, 0.99)])
def test_a_flood_is_refused_at_the_door_where_batches_pay(noise: float, kept: float) -> None:
    """At three times what full batches carry they stay full, and who is admitted is answered."""
    build, workers = MACHINES["gpu-b"]
    rate_per_s, begins_ns = 3 * capacity_per_s("gpu-b"), WARM_UP_NS - NS_PER_S // 3
    moved = [
        dataclasses.replace(arrival, at_ns=arrival.at_ns + begins_ns)
        for arrival in arrivals(5, rate_per_s=rate_per_s, duration_s=0.8)
    ]
    first = sum(arrival.at_ns < WARM_UP_NS for arrival in moved)
    traffic = Traffic(tuple(moved[:first]), tuple(moved[first:]))
    cell = Cell("gpu-b", "poisson", 3.0, seed=5, requests=len(traffic.counted), noise=noise)
    report = simulate(planner_of(Recording, build(), workers), cell, traffic)
    assert report.admitted_attainment > kept
    assert report.in_time > 0.98 * report.offered / 3


@pytest.mark.parametrize(("machine", "load"), [("gpu-b", 0.3), ("gpu-b", 0.7), ("cpu-b", 0.3), ("cpu-lite", 1.0)])
def test_who_is_admitted_is_in_time_where_runs_are_exact(machine: str, load: float) -> None:
    """The door has gone through each run to come, so that all but one in a thousand of the admitted are answered."""
    cell = Cell(machine, "gamma cv2=2", load, seed=6, requests=1200)
    report = simulate(planner_of(Recording, MACHINES[machine][0](), MACHINES[machine][1]), cell, traffic_of(cell))
    assert report.admitted_attainment >= 0.999


def test_core_time_costs_what_runs_usually_take_of_it() -> None:
    """Where runs scatter by a third, a price by their high quantiles leaves cores idle: it had 75.2 points of these."""
    cell = Cell("cpu-lite", "poisson", 0.7, seed=13, requests=1500, noise=0.3)
    report = simulate(planner_of(Recording, MACHINES["cpu-lite"][0](), 2), cell, traffic_of(cell))
    assert report.effective_accuracy > 75.7
    assert report.admitted_attainment > 0.995


def test_a_run_on_all_cores_that_blocks_nobody_is_not_charged_for_blocking() -> None:
    """In bursts at a tenth of capacity accuracy is kept back only before a run that blocks: it had 76.0 of these."""
    cell = Cell("cpu-lite", "gamma cv2=4", 0.1, seed=43, requests=1500)
    report = simulate(planner_of(Recording, MACHINES["cpu-lite"][0](), 2), cell, traffic_of(cell))
    assert report.effective_accuracy > 76.4
    assert report.admitted_attainment >= 0.999
