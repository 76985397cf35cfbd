"""What a server has measured of its variants' memory, so that limits in tests fit the machine they run on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from model_store.footprint import Footprint, MemoryProfile


def measured_footprints(store: Path) -> Mapping[str, Footprint]:
    """By variant, from the only memory profile that lies beside the store."""
    (path,) = (store / "profiles").glob("memory-*.json")
    return MemoryProfile.from_json(path.read_bytes()).footprints
