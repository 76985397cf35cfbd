"""What each variant takes of this machine's memory: the numbers that a bound on memory is kept by.

A `MemoryProfile` is measured like a `MachineProfile`, once for a machine, a runtime and a graph. Nothing here measures;
`service/runtime/footprint_probe.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass

from model_store import strict_json

SCHEMA_VERSION = 1


class FootprintError(ValueError):
    """A memory profile that cannot be used: unreadable, or of another schema."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What one variant takes, its sessions at all thread widths together.

    `resident_bytes`: held once it is loaded and has run on every worker. `loading_bytes`: the most that is held at any
    moment while it is loaded, no less than that. `load_ns`: from reading its file to its being warm.
    """

    resident_bytes: int
    loading_bytes: int
    load_ns: int

    def __post_init__(self) -> None:
        """Refuse what no measurement can give."""
        if not 0 < self.resident_bytes <= self.loading_bytes or self.load_ns <= 0:
            raise FootprintError(f"a footprint is above 0, and loading takes no less than what is held; got {self}")


@dataclass(frozen=True, slots=True)
class MemoryProfile:
    """The footprints of variants by name, and what they were measured on; if any of it differs they are stale.

    `model_sha256` maps each variant to the graph that was measured; `batch_size_max` is the largest batch that was run.
    """

    schema_version: int
    machine: str
    runtime: str
    workers: int
    batch_size_max: int
    thread_widths: tuple[int, ...]
    model_sha256: dict[str, str]
    footprints: dict[str, Footprint]

    def to_json(self) -> str:
        """Canonical JSON text."""
        return strict_json.dumps(self)

    @classmethod
    def from_json(cls, text: str | bytes) -> MemoryProfile:
        """Parse strictly.

        Raises:
            FootprintError: not JSON, another schema version, or a key missing, unknown or mistyped.
        """
        try:
            profile = strict_json.loads(cls, text, "memory profile")
        except strict_json.StrictJsonError as error:
            raise FootprintError(str(error)) from error
        if profile.schema_version != SCHEMA_VERSION:
            raise FootprintError(f"schema_version is {profile.schema_version}, expected {SCHEMA_VERSION}")
        return profile
