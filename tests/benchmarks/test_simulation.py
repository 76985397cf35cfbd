"""The simulation study writes what its table says: origin, notes, a table a machine, plots; and names no folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import simulation
from benchmarks.simulation import main


def test_the_study_writes_a_table_and_two_plots(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    """One machine, one load: exact rows with a bound above every policy, noisy rows without, plots."""
    monkeypatch.setattr(simulation, "REQUESTS_MIN", 120)  # the bound holds for any number of requests
    traces = tmp_path / "some folder"
    traces.mkdir()
    (traces / "morning.csv").write_text("".join(f"{5 * index},1,300\n" for index in range(4000)))
    main(["--quick", "--machines", "cpu-lite", "--loads", "0.5", "--results", str(tmp_path), "--traces", str(traces)])
    text = (tmp_path / "simulation-cpu-lite.md").read_text()
    table = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    header, rows = table[0], [dict(zip(table[0], line, strict=True)) for line in table[1:]]
    assert {"ours", "bound", "clairvoyant", "best static", "headroom", "admitted in time"} <= set(header)
    assert [row["traffic"] for row in rows] == ["poisson", "gamma cv2=4", "poisson, noise", "gamma cv2=4, noise"]
    for row in rows:
        if row["traffic"].endswith("noise"):
            assert row["bound"] == row["ratio"] == row["clairvoyant"] == "–"
        else:
            policies = (row["ours"], row["best static"], row["maxacc"], row["maxbatch"], row["slackfit"])
            assert max(map(float, policies)) <= float(row["bound"])
            assert float(row["ours"]) <= float(row["clairvoyant"]) <= float(row["bound"])
    plots = sorted(tmp_path.glob("*.svg"))
    assert len(plots) == 2
    assert all(plot.name in text and plot.stat().st_size < 150_000 for plot in plots)
    assert "--traces DIR" in text
    assert str(traces) not in text
    assert "Seed 1." in text
    assert "written" in capsys.readouterr().out
    index = (tmp_path / "simulation.md").read_text()
    assert "clairvoyant" in index
    assert "(simulation-cpu-lite.md)" in index
    assert "simulation-cpu-b.md" not in index.split("\n\n")[1]
