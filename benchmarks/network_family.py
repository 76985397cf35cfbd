"""A store of many networks at their true cost: Lite with its real weights, B with seeded noise, each in fp32 and fp16.

A network of noise takes the time of a trained one. So that routing has something to weigh, it carries the figure that
trained weights reach; its answers mean nothing, and say so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from model_store.architecture import Architecture
from model_store.builder import BuildRequest, build_store
from model_store.catalogue import Catalogue
from model_store.manifest import Accuracy
from model_store.published_checkpoints import published_top1
from model_store.sources import LoadedWeights, SourceFacts, WeightsSource, from_untrained, from_wheel

FP16 = "-fp16"


@dataclass(frozen=True, slots=True)
class _Noise:
    """Seeded weights, routed by the figure of trained ones."""

    source: WeightsSource

    @property
    def facts(self) -> SourceFacts:
        facts = self.source.facts
        detail = "seeded weights; the figure is what trained ones reach"
        return replace(facts, accuracy=Accuracy(published_top1(facts.member), None, "published", detail, None))

    @property
    def identity(self) -> Mapping[str, str]:
        return {**self.source.identity, "figure": "of trained weights"}

    def load(self, architecture: Architecture) -> LoadedWeights:
        return self.source.load(architecture)


def noise(member: str) -> WeightsSource:
    """Seeded weights of `member`, routed by the figure of trained ones, and marked untrained."""
    return _Noise(from_untrained(member, 0))


def build(root: Path, members: Sequence[str]) -> Catalogue:
    """A store at `root` with each of `members` in fp32 and fp16.

    Raises:
        SourceError: a Lite member whose wheel is not installed.
    """
    requests = []
    for member in members:
        source = from_wheel(member) if member.startswith("lite") else noise(member)
        requests += [BuildRequest(member, source), BuildRequest(member + FP16, source, float_type="fp16")]
    build_store(root, requests)
    return Catalogue.open(root)
