"""Plots of the autoscaling study: each signal over load, and what each rule earns over what it costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from benchmarks.report import save_plot
from tests.simulation.fleet import SIGNALS, FleetReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.autoscaling_days import Steady

_MARKERS = {"fixed": "o", "CPU": "s", "given up and queue": "*", "CPU and queue": "D"}


def plot_signals(path: Path, machine: str, found: Sequence[Steady]) -> None:
    """Each signal over load, as a share of what it says at the highest."""

    def draw(axes: Axes) -> None:
        for name in SIGNALS:
            axes.plot(
                [one.load for one in found],
                [one.signals[name] / found[-1].signals[name] for one in found],
                marker="o",
                markersize=4,
                label=name,
            )
        axes.set(xlabel="load of one replica", ylabel="share of its value at the highest load")

    save_plot(path, f"{machine}: what each signal says of load", draw)


def plot_costs(path: Path, title: str, found: Mapping[str, Mapping[int, FleetReport]]) -> None:
    """Effective accuracy over mean replicas, a point for each day: medians of fixed fleets joined by a line."""
    by_family: dict[str, list[FleetReport]] = defaultdict(list)
    for name, reports in found.items():
        family = " and ".join(part.strip().rpartition(" ")[0] for part in name.split(","))
        by_family[family].extend(reports.values())

    def draw(axes: Axes) -> None:
        for family, reports in by_family.items():
            axes.plot(
                [report.replicas_mean for report in reports],
                [report.effective_accuracy for report in reports],
                marker=_MARKERS[family],
                linestyle="none",
                markersize=7,
                label=family,
            )
        sizes = {report.replicas_mean for report in by_family["fixed"]}
        middles = {
            size: median(one.effective_accuracy for one in by_family["fixed"] if one.replicas_mean == size)
            for size in sizes
        }
        axes.plot(sorted(sizes), [middles[size] for size in sorted(sizes)], linestyle="--", color="tab:blue")
        axes.set(xlabel="replicas, mean over the day", ylabel="effective accuracy")

    save_plot(path, title, draw)
