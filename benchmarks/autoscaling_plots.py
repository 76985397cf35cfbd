"""Plots of the autoscaling study: each signal over load, and what each rule earns over what it costs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tests.simulation.fleet import SIGNALS, FleetReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.autoscaling_days import Steady

_MARKERS = {"fixed": "o", "CPU": "s", "degraded": "x", "given up": "^", "queue": "v", "both": "*"}


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

    _save(path, f"{machine}: what each signal says of load", draw)


def plot_costs(path: Path, title: str, found: Mapping[str, FleetReport]) -> None:
    """Effective accuracy over mean replicas: fixed fleets as a line, every other rule as a point."""
    by_family: dict[str, list[FleetReport]] = defaultdict(list)
    for name, report in found.items():
        if ";" not in name:
            by_family["both" if "," in name else name.rpartition(" ")[0]].append(report)

    def draw(axes: Axes) -> None:
        for family, reports in by_family.items():
            axes.plot(
                [report.replicas_mean for report in reports],
                [report.effective_accuracy for report in reports],
                marker=_MARKERS[family],
                linestyle="--" if family == "fixed" else "none",
                markersize=11 if family == "both" else 7,
                label="given up and queue" if family == "both" else family,
            )
        axes.set(xlabel="replicas, mean over the day", ylabel="effective accuracy")

    _save(path, title, draw)


def _save(path: Path, title: str, draw: Callable[[Axes], None]) -> None:
    """An SVG whose bytes depend on nothing but the figures."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second, and only for this

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above, after the backend is chosen

    with mpl.rc_context({"svg.hashsalt": "phiserve", "svg.fonttype": "none", "font.size": 10}):
        figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
        draw(axes)
        axes.set_title(title)
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
