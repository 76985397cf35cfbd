"""The planner's cost: measured on real plans, printed beside the bound."""

from __future__ import annotations

import pytest

from benchmarks import planner_cost
from benchmarks.planner_cost import MENUS, Cost, document, measure


@pytest.mark.parametrize("menu", MENUS)
def test_plans_of_every_menu_are_timed(menu):
    """Percentiles rise and are times of something."""
    found = measure(menu, 10, situations=20)
    assert (found.menu, found.queued, found.situations) == (menu, 10, 20)
    assert 0 < found.p50_us <= found.p99_us <= found.max_us


def test_each_cost_is_judged_by_its_99th_percentile():
    """Within the bound, only the median within it, or neither."""
    costs = [Cost("m", 1, 9, 10, 99, 500), Cost("m", 10, 9, 60, 101, 500), Cost("m", 100, 9, 101, 300, 500)]
    ends = [line.rsplit("| ", 1)[1] for line in document(costs, "x").splitlines() if line.startswith("| m,")]
    assert ends == ["yes |", "only the median |", "**no** |"]


def test_the_result_file_has_a_row_for_every_menu_and_queue(tmp_path, capsys, monkeypatch):
    """The command writes what it prints."""
    monkeypatch.setattr(planner_cost, "QUEUES", (1, 30))
    monkeypatch.setattr(planner_cost, "_HISTORY_S", 0.1)
    planner_cost.main(["--quick", "--results", str(tmp_path)])
    text = (tmp_path / "planner_cost.md").read_text()
    assert text in capsys.readouterr().out
    for menu in MENUS:
        for queued in (1, 30):
            assert f"| {menu}, {queued} queued |" in text
    for kind in ("free", "pinned"):
        assert f"| {kind}, 16 others |" in text
