"""Observers of the core: Prometheus metrics and logs. The core knows only the `Instrument` interface."""
