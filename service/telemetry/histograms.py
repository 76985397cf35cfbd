"""Histograms that one thread alone observes with: two additions, no lock and no look at each bound.

A request is observed six times, and its run twice, with the event loop's thread held each time. The page is
`prometheus_client`'s, which writes a family of these as it does one of its own. Knows no metric by name.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString


class Histogram:
    """One series: how often values were observed, by the bound they are below, and their sum."""

    __slots__ = ("_bounds", "_counts", "_exemplars", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        """`bounds` rise, each the largest value of its bucket; what is above the last one has a bucket too."""
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0
        self._exemplars: dict[int, Exemplar] = {}

    def observe(self, value: float, exemplar: dict[str, str] | None = None) -> None:
        """Count `value`, on the event loop's thread; `exemplar`: labels of what it is an example of, if of anything."""
        bucket = bisect.bisect_left(self._bounds, value)
        self._counts[bucket] += 1
        self._sum += value
        if exemplar:
            self._exemplars[bucket] = Exemplar(exemplar, value, time.time())

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        """Write this series into `family` as that of `labels`."""
        bounds = (*self._bounds, float("inf"))
        names = [floatToGoString(bound) for bound in bounds]  # type: ignore[no-untyped-call]  # not annotated there
        below = accumulate(map(float, self._counts))
        buckets = [
            (name, count, self._exemplars[bucket]) if bucket in self._exemplars else (name, count)
            for bucket, (name, count) in enumerate(zip(names, below, strict=True))
        ]
        family.add_metric(labels, buckets, self._sum)


class Histograms(Collector):
    """All series of one name, told apart by one label or by none."""

    def __init__(
        self, name: str, documentation: str, label: str = "", *, buckets: Sequence[float], registry: CollectorRegistry
    ) -> None:
        """No series yet; the page has them in the order in which they are first asked for."""
        self._name, self._documentation = name, documentation
        self._label_names = (label,) if label else ()
        self._bounds = tuple(map(float, buckets))
        self._series: dict[tuple[str, ...], Histogram] = {}
        registry.register(self)

    def of(self, *label: str) -> Histogram:
        """The series with this label's value, or the only one where there is no label."""
        if label not in self._series:
            assert len(label) == len(self._label_names), f"{self._name} has the labels {self._label_names}"
            self._series[label] = Histogram(self._bounds)
        return self._series[label]

    def describe(self) -> Iterable[HistogramMetricFamily]:
        """The family without its series: the registry refuses a name that it has already."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._label_names)

    def collect(self) -> Iterable[HistogramMetricFamily]:
        """The family as the page has it now."""
        for family in self.describe():
            for labels, series in self._series.items():
                series.add_to(family, labels)
            yield family
