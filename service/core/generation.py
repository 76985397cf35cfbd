"""One loaded version of a store: everything that is swapped at once when another version takes its place.

Plain data, made whole before anybody sees it. Loads, measures and frees nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from model_store.labels import Label
from model_store.latency_profile import MachineProfile
from model_store.manifest import Manifest, ModelVariant
from service.core.menu import Menu
from service.core.ports import WorkerPool


@dataclass(frozen=True, slots=True)
class ServedVariant:
    """A loaded variant with its provenance and class names (in class-index order)."""

    manifest: Manifest
    labels: tuple[Label, ...]
    routable: bool


@dataclass(frozen=True, slots=True)
class VariantStatus:
    """One row of the menu, as front ends show it.

    `routable` False: untrained, and the operator did not allow that. `latency_ns_by_batch`: thread width to
    batch size to nanoseconds. `loaded` False: memory has no room for it now.
    """

    manifest: Manifest
    routable: bool
    latency_ns_by_batch: dict[int, dict[int, int]]
    loaded: bool = True

    @property
    def variant(self) -> ModelVariant:
        """The variant itself."""
        return self.manifest.variant


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """See the module. `workers` run only variants of `served`, at the widths and batch sizes of `menu`.

    `version` names the content of the store that it was loaded from.
    """

    version: str
    menu: Menu
    served: Mapping[str, ServedVariant]
    profile: MachineProfile
    workers: WorkerPool
    shorter_sides_px: Mapping[str, int] = field(init=False)
    """Of each variant, the pixels of a picture's shorter side from which its centre crop loses nothing."""

    def __post_init__(self) -> None:
        """Reckon once what every request asks for."""
        sides = {name: _shorter_side_px(served.manifest.variant) for name, served in self.served.items()}
        object.__setattr__(self, "shorter_sides_px", sides)

    def statuses(self) -> tuple[VariantStatus, ...]:
        """Every served variant, most accurate first."""
        rows = [
            VariantStatus(
                served.manifest,
                served.routable,
                self._latencies(name),
                loaded=served.routable and name not in self.menu.unloaded,
            )
            for name, served in self.served.items()
        ]
        rows.sort(key=lambda row: (row.variant.top1 or 0.0, row.manifest.parameters), reverse=True)
        return tuple(rows)

    def _latencies(self, name: str) -> dict[int, dict[int, int]]:
        return {
            profile.threads: {point.batch_size: point.latency_ns for point in profile.points}
            for profile in self.profile.latencies
            if profile.variant == name
        }


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What asking for the store to be read again came to, when nothing was refused.

    `changed` False: the store holds what is served already, and nothing was loaded. `variants`: those that are served.
    `took_ns`: from asking until requests were served with it.
    """

    version: str
    changed: bool
    variants: tuple[str, ...]
    took_ns: int


def _shorter_side_px(variant: ModelVariant) -> int:
    return -(-variant.resolution * 1000 // int(variant.crop_fraction * 1000))
