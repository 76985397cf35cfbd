"""Prometheus metrics of which variants are loaded, where memory has room for some.

They have no series where nothing limits memory. It decides nothing, and its methods neither block nor raise.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

NS_PER_S = 1_000_000_000

LOAD_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 20, 30, 60)

LOAD_REASONS = ("named", "worth")
"""named: a request waited for it; worth: requests of the last minute would have been worth more with it."""


class ResidencyMetrics:
    """Observes what is loaded; see `variant_keeper.ResidencyInstrument`. Construct it once for each registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Nothing is limited."""
        self._room = Gauge(
            "phiserve_variants_room_bytes", "Memory that the limit leaves for loaded variants", registry=registry
        )
        self._resident = Gauge(
            "phiserve_variant_resident_bytes",
            "Memory that a variant takes while it is loaded, as measured here",
            ["variant"],
            registry=registry,
        )
        self._loaded = Gauge(
            "phiserve_variant_loaded", "1 while the variant is loaded, else 0", ["variant"], registry=registry
        )
        self._loads = Counter(
            "phiserve_variant_loads", "Loads while serving, by why", ["variant", "reason"], registry=registry
        )
        self._unloads = Counter("phiserve_variant_unloads", "Unloads while serving", ["variant"], registry=registry)
        self._failures = Counter(
            "phiserve_variant_load_failures",
            "Variants that could not be loaded, and are not tried again",
            ["variant"],
            registry=registry,
        )
        self._seconds = Histogram(
            "phiserve_variant_load_seconds",
            "From asking for a variant to serving with it",
            ["reason"],
            buckets=LOAD_BUCKETS_S,
            registry=registry,
        )
        self._wanted = Counter(
            "phiserve_variant_wanted_unloaded",
            "Requests that would have been worth most with the variant, which was not loaded",
            ["variant"],
            registry=registry,
        )

    def memory_limited(self, limit_bytes: int, resident_bytes: Mapping[str, int]) -> None:
        """Variants may take this much in all, and each of them what was measured of it. Every series begins at 0."""
        self._room.set(limit_bytes)
        for reason in LOAD_REASONS:
            self._seconds.labels(reason)
        for name, size in resident_bytes.items():
            self._resident.labels(name).set(size)
            self._loaded.labels(name).set(0)
            for reason in LOAD_REASONS:
                self._loads.labels(name, reason)
            for counter in (self._unloads, self._failures, self._wanted):
                counter.labels(name)

    def variant_loaded(self, variant: str, reason: str, took_ns: int) -> None:
        """It serves from now on; `reason` is "start" or one of `LOAD_REASONS`."""
        self._loaded.labels(variant).set(1)
        if reason in LOAD_REASONS:
            self._loads.labels(variant, reason).inc()
            self._seconds.labels(reason).observe(took_ns / NS_PER_S)

    def variant_unloaded(self, variant: str) -> None:
        """It does not any more."""
        self._loaded.labels(variant).set(0)
        self._unloads.labels(variant).inc()

    def load_failed(self, variant: str) -> None:
        """It could not be loaded."""
        self._failures.labels(variant).inc()

    def wanted(self, variant: str, requests: float) -> None:
        """So many requests would have been worth most with `variant`, which was not loaded."""
        self._wanted.labels(variant).inc(requests)
