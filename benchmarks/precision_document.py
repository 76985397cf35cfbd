"""The page and the plot of the precision benchmark: accuracy and latency of each way, and which are worth having.

Computes from what was measured; measures nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.report import number, origin, save_plot, spread, table
from model_store.activation_ranges import committed_ranges
from model_store.catalogue import Catalogue
from service.runtime.providers import Provider
from service.runtime.session import Probabilities

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TINY = 1e-9


@dataclass(frozen=True, slots=True, order=True)
class Way:
    """A variant on a provider; on None where its numbers were rounded as they would be and no provider ran it."""

    variant: str
    provider: Provider | None


@dataclass(frozen=True, slots=True)
class Shape:
    """Threads and pictures of a run."""

    threads: int
    batch_size: int

    def __str__(self) -> str:
        """For a table's head."""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return threads if self.batch_size == 1 else f"{threads}, {self.batch_size} pictures"


@dataclass(frozen=True, slots=True)
class Score:
    """Top-1 and how often the class is fp32's, in percent; the mean divergence from fp32's probabilities in nats."""

    top1: float
    same: float
    divergence: float


Times = Mapping[Way, Sequence[float]]
"""Milliseconds, one of each round, the rounds of all side by side."""
Found = Mapping[Way, Score]


def score(found: Probabilities, exact: Probabilities, classes: Sequence[int]) -> Score:
    """How right `found` is for pictures of `classes`, beside what fp32 on the CPU provider gave."""
    best = found.argmax(axis=1)
    p, q = (np.maximum(rows.astype(np.float64), _TINY) for rows in (exact, found))
    divergence = float((p * np.log(p / q)).sum(axis=1).mean())
    return Score(
        100 * float((best == np.array(classes)).mean()), 100 * float((best == exact.argmax(axis=1)).mean()), divergence
    )


def ratios(base_ms: Sequence[float], other_ms: Sequence[float]) -> tuple[float, ...]:
    """How many times faster the other was, in tenths of the rounds: medians within each."""
    size = max(1, len(base_ms) // 10)
    tenths = [slice(start, start + size) for start in range(0, len(base_ms), size)]
    return tuple(statistics.median(base_ms[t]) / statistics.median(other_ms[t]) for t in tenths)


def front(found: Found, took_ms: Times) -> frozenset[Way]:
    """The ways that are worth having: none is as right in less time, or more right in as little."""
    known = {way: (found[way].top1, statistics.median(took_ms[way])) for way in found if way in took_ms}

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        return one != other and one[0] >= other[0] and one[1] <= other[1]

    return frozenset(way for way, here in known.items() if not any(beats(there, here) for there in known.values()))


def document(
    catalogue: Catalogue,
    runtimes: Mapping[Provider, str],
    found: Found,
    took_ms: Mapping[Shape, Times],
    *,
    command: str,
    photographs: int,
) -> str:
    """The page, as Markdown."""
    ways = sorted(
        {*found, *(way for times in took_ms.values() for way in times)}, key=lambda way: _place(catalogue, way)
    )
    first = next(iter(took_ms))
    worth = front(found, took_ms[first])
    rows = [_row(catalogue, way, found.get(way), took_ms, worth) for way in ways]
    header = ("variant, provider", "top-1 %", "same class %", "divergence", *(f"{shape}, ms" for shape in took_ms))
    judged = "Not judged here: no photographs were given."
    if photographs:
        judged = (
            f"Judged on {photographs} labelled photographs, which are training pictures of these networks: read "
            f"figures beside each other only; a photograph is {100 / photographs:g} points. Divergence is "
            "Kullback-Leibler's from fp32 on the CPU provider, in nats. "
            f"Front: at {first} nothing here is as right and quicker."
        )
    return (
        f"# Variants by precision and provider\n\n{origin(command)} In turns: {'; '.join(runtimes.values())}.\n\n"
        f"{judged} Latencies are medians of runs in turns. Beside fp32: how many times faster than the member's fp32 "
        "on the CPU provider in the same rounds, the median over tenths of them, with the lowest and highest.\n\n"
        f"{table((*header, 'beside fp32', 'front'), rows)}\n\n"
        + ("![Accuracy over latency](precision.svg)\n\n" if photographs else "")
        + _notes(catalogue, ways, photographs)
        + _committed(catalogue)
    )


def _place(catalogue: Catalogue, way: Way) -> tuple[int, int, str, str]:
    entry = catalogue.entries[way.variant]
    order = ("fp32", "int8", "bf16", "fp16").index(entry.variant.precision)
    return entry.manifest.flops, order, way.variant, way.provider or ""


def _row(
    catalogue: Catalogue, way: Way, judged: Score | None, took_ms: Mapping[Shape, Times], worth: frozenset[Way]
) -> tuple[str, ...]:
    base = Way(catalogue.entries[way.variant].variant.member, Provider.CPU)
    times = next(iter(took_ms.values()))
    beside = spread(ratios(times[base], times[way])) if way in times and base in times and way != base else "–"
    accuracy = ("–", "–", "–")
    if judged is not None:
        accuracy = (f"{judged.top1:.1f}", f"{judged.same:.1f}", f"{max(0.0, judged.divergence):.4f}")
    medians = (statistics.median(of[way]) if way in of else float("nan") for of in took_ms.values())
    where = "rounded, not run" if way.provider is None else way.provider.value
    front_here = "yes" if way in worth else ""
    return (f"{way.variant}, {where}", *accuracy, *(number(ms, 2) for ms in medians), beside, front_here)


def _notes(catalogue: Catalogue, ways: Sequence[Way], photographs: int) -> str:
    notes = []
    if any(way.provider is None for way in ways):
        notes.append(
            "**bf16 was not run**: nothing here computes it. *Rounded, not run* is the fp32 graph with weights and "
            "each layer's output rounded to bfloat16 (`bf16_rounding.py`): what the format costs, and not what a "
            "processor answers to the last bit."
        )
    if any(catalogue.entries[way.variant].variant.precision == "int8" for way in ways) and photographs:
        notes.append(
            "The committed ranges of int8 were measured on a fifth of ImageNet's classes. If these photographs are "
            "those, int8 is judged here on what it was calibrated on; the last table is the fair one."
        )
    noise = sorted(name for name, entry in catalogue.entries.items() if not entry.variant.trained)
    if noise and photographs:
        notes.append(f"{', '.join(noise)}: seeded weights, which take the time of trained ones and have no accuracy.")
    return "".join(f"{note}\n\n" for note in notes)


def _committed(catalogue: Catalogue) -> str:
    """What the committed ranges say of int8, over ten times as many views."""
    rows = []
    for member in dict.fromkeys(entry.variant.member for entry in catalogue.entries.values()):
        if (ranges := committed_ranges(member)) is None:
            continue
        verdict = ranges.verdict
        figures = (verdict.top1_fp32, verdict.top1_int8, verdict.agreement)
        sizes = [
            catalogue.entries[name].manifest.files["model.onnx"].size_bytes / 1e6 for name in (member, f"{member}-int8")
        ]
        row = (*(f"{value:.2f}" for value in figures), f"{verdict.divergence:.4f}", *(f"{size:.1f}" for size in sizes))
        rows.append((member, *row))
    header = ("network", "fp32 top-1 %", "int8 top-1 %", "same class %", "divergence", "fp32 MB", "int8 MB")
    return (
        "What the committed ranges state of int8: ten views of each of 200 photographs, each judged by ranges from the "
        f"other half of them.\n\n{table(header, rows)}\n"
    )


def plot(path: Path, found: Found, took_ms: Times) -> None:
    """Top-1 over latency: a mark for each way, and through those that are worth having on each provider a line."""
    known = {way: (statistics.median(took_ms[way]), judged.top1) for way, judged in found.items() if way in took_ms}

    def draw(axes: Axes) -> None:
        for provider, mark in ((Provider.CPU, "o"), (Provider.OPENVINO, "s")):
            of = {way: at for way, at in known.items() if way.provider is provider}
            if not of:
                continue
            (scatter,) = axes.plot(*zip(*of.values(), strict=True), mark, label=f"{provider} provider")
            worth = front({way: found[way] for way in of}, took_ms)
            line = sorted(at for way, at in of.items() if way in worth)
            axes.plot(*zip(*line, strict=True), color=scatter.get_color(), linewidth=1, alpha=0.6)
            for way, at in of.items():
                below = provider is not Provider.CPU
                axes.annotate(
                    way.variant, at, xytext=(4, -11 if below else 5), textcoords="offset points", fontsize=7,
                    color=scatter.get_color(),
                )  # fmt: skip
        axes.set(xlabel="one picture on one thread, ms", ylabel="top-1 on the photographs, %")

    save_plot(path, "Accuracy over latency; lines join what is worth having on each provider", draw)
