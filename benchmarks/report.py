"""What every result file has: where it comes from (command, machine, commit, versions), tables, and plots.

Knows no benchmark.
"""

from __future__ import annotations

import datetime as dt
import math
import platform
import statistics
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from service.runtime.machine import machine_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parent.parent


def origin(command: str, packages: Sequence[str] = ()) -> str:
    """The paragraph that lets a reader repeat a measurement."""
    versions = ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)])
    today = dt.datetime.now(tz=dt.UTC).date().isoformat()
    return f"`{command}` on {machine_name()}; {versions}; {_commit()}; {today}."


def _commit() -> str:
    """The commit of the working tree, and whether what runs differs from it."""
    described = _git("rev-parse", "--short=12", "HEAD")
    if described is None:
        return "not in a git checkout"
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", "service", "model_store", "benchmarks/*.py")
    return f"commit {described}" + (" with uncommitted changes" if changed else "")


def _git(*arguments: str) -> str | None:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, first column left, the others right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and the lowest and highest where there are several: `71.20 (70.95–71.44)`."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "–"
    median = f"{statistics.median(known):.{digits}f}"
    if len(known) == 1:
        return median
    return f"{median} ({min(known):.{digits}f}–{max(known):.{digits}f})"


def number(value: float, digits: int = 1) -> str:
    """A figure, or a dash where there is none."""
    return "–" if math.isnan(value) else f"{value:.{digits}f}"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a plot: y over x, with the lowest and highest of several rounds at each x."""

    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    stands_out: bool = False


def plot_over_load(path: Path, title: str, y_label: str, lines: Mapping[str, Line]) -> None:
    """Draw `lines` over load."""

    def draw(axes: Axes) -> None:
        for name, line in lines.items():
            below = [y - low for y, low in zip(line.y, line.low, strict=True)]
            above = [high - y for y, high in zip(line.y, line.high, strict=True)]
            axes.errorbar(
                line.x, line.y, yerr=[below, above], label=name, marker="o", markersize=4, capsize=3,
                linewidth=2.6 if line.stands_out else 1.3,
            )  # fmt: skip
        axes.set(xlabel="offered load, as a share of capacity at the cheapest variant", ylabel=y_label)
        axes.set_xscale("log")
        name_ticks(axes, {x for line in lines.values() for x in line.x})

    save_plot(path, title, draw)


def name_ticks(axes: Axes, values: Iterable[float]) -> None:
    """Have the x axis name exactly these values."""
    ticks = sorted(values)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def save_plot(path: Path, title: str, draw: Callable[[Axes], None]) -> None:
    """Write what `draw` draws as an SVG whose bytes depend on nothing but the figures."""
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
