"""`python -m benchmarks`: names are checked, and each benchmark gets the flags it understands."""

from __future__ import annotations

import pytest

from benchmarks import __main__ as command
from benchmarks import planner_cost


def test_an_unknown_benchmark_is_refused_with_those_there_are():
    """A typing mistake ends the command before anything is measured."""
    known = ", ".join(command.BENCHMARKS)
    with pytest.raises(SystemExit, match=f"no benchmark 'replya'; there are {known}"):
        command.main(["replya"])


def test_help_lists_the_benchmarks(capsys):
    """Without a name, --help says what can be measured."""
    command.main(["--help"])
    listed = capsys.readouterr().out
    assert [name for name in command.BENCHMARKS if f"\n  {name} " not in listed] == []


def test_folders_go_only_to_benchmarks_that_read_them(tmp_path, monkeypatch):
    """`make bench TRACES=… PHOTOGRAPHS=…` runs the planner's benchmark too, which has no such flags."""
    monkeypatch.setattr(planner_cost, "QUEUES", (1,))
    monkeypatch.setattr(planner_cost, "_HISTORY_S", 0.1)
    command.main(["planner", "--traces", "a", "--quick", "--photographs", "b", "--results", str(tmp_path)])
    assert (tmp_path / "planner_cost.md").exists()
