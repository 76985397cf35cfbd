"""Metrics of what is loaded: absent by variant where nothing limits memory, from 0 on where something does."""

from __future__ import annotations

from service.telemetry.metrics import PrometheusInstrument, create_registry

MIB = 1024**2


def test_loads_and_unloads_are_counted_by_variant() -> None:
    """Which variants are in, how they came, how long that took, and who would have wanted what was not."""
    registry = create_registry("1.2.3")
    metrics = PrometheusInstrument(registry).residency
    assert registry.get_sample_value("phiserve_variant_loaded", {"variant": "lite0"}) is None
    metrics.memory_limited(100 * MIB, {"lite0": 20 * MIB, "lite2": 70 * MIB})
    metrics.variant_loaded("lite0", "start", 0)
    metrics.wanted("lite2", 7.0)
    metrics.variant_loaded("lite2", "named", 1_500_000_000)
    metrics.variant_unloaded("lite2")
    metrics.load_failed("lite2")

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"phiserve_{name}", labels)

    assert value("variants_room_bytes") == 100 * MIB
    assert value("variant_resident_bytes", variant="lite2") == 70 * MIB
    assert (value("variant_loaded", variant="lite0"), value("variant_loaded", variant="lite2")) == (1, 0)
    assert value("variant_loads_total", variant="lite0", reason="named") == 0, "a start is no load while serving"
    assert value("variant_loads_total", variant="lite2", reason="named") == 1
    assert value("variant_loads_total", variant="lite2", reason="worth") == 0
    assert value("variant_unloads_total", variant="lite2") == 1
    assert value("variant_load_failures_total", variant="lite2") == 1
    assert value("variant_load_seconds_sum", reason="named") == 1.5
    assert value("variant_wanted_unloaded_total", variant="lite2") == 7
