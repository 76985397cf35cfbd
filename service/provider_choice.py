"""Which execution provider `auto` means here: the fastest of those installed, by a measurement at start.

What is installed says little: a package for GPUs may find no GPU, and OpenVINO may lose on one processor what it wins
on another. So the middle one of the networks in the store is run on each, a batch with everything the machine has, in
whichever precision suits the provider best. It takes a second or two, and nothing where there is only one to choose.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from model_store.catalogue import CatalogueEntry
from service.core.clock import Clock
from service.runtime.providers import Provider, SessionOptions, candidates
from service.runtime.session import Session, SessionError
from service.settings import Settings
from service.store_loading import routable_entries

logger = logging.getLogger(__name__)

NS_PER_MS = 1_000_000
_BATCH = 8
_ROUNDS = 7
_UNTIMED = 2


def choose_provider(settings: Settings, cores: int, available: Collection[str], clock: Clock) -> Provider:
    """The provider of `settings`; for `auto` the fastest. `available` are ONNX Runtime's names of those installed.

    Raises:
        UnservableError, StoreError: `auto` has more than one to choose from, and the store holds nothing to try.
    """
    found = candidates(Provider(settings.provider), available)
    if len(found) == 1:
        return found[0]
    entries = routable_entries(settings)
    member = _middle_member(entries)
    tried = [entry for entry in entries.values() if entry.variant.member == member]
    took_ns = {provider: took for provider in found if (took := _fastest_ns(provider, tried, cores, clock)) is not None}
    best = min(took_ns, key=lambda provider: took_ns[provider], default=Provider.CPU)
    figures = ", ".join(f"{provider} {took / NS_PER_MS:.1f} ms" for provider, took in took_ns.items())
    logger.info("provider auto is %s here; %d images of %s take: %s", best, _BATCH, member, figures)
    return best


def _middle_member(entries: Mapping[str, CatalogueEntry]) -> str:
    """The network in the middle by work, if there are several the larger."""
    flops = {entry.variant.member: entry.manifest.flops for entry in entries.values()}
    ordered = sorted(flops, key=lambda member: flops[member])
    return ordered[len(ordered) // 2]


def _fastest_ns(provider: Provider, entries: Sequence[CatalogueEntry], cores: int, clock: Clock) -> int | None:
    """What a batch takes in the fastest precision; None where the provider cannot run here."""
    took_ns: list[int] = []
    for entry in entries:
        options = SessionOptions(cores if provider.on_cpu else 1, _BATCH)
        try:
            session = Session(entry.read_model(), entry.variant, options, provider)
        except SessionError as error:
            logger.warning("%s", error)
            continue
        if session.provider is not provider:  # and the log says why
            return None
        took_ns.append(_run_ns(session, clock))
    return min(took_ns, default=None)


def _run_ns(session: Session, clock: Clock) -> int:
    side = session.variant.resolution
    pixels = np.full((_BATCH, side, side, 3), 127, np.uint8)
    times_ns = []
    for _ in range(_UNTIMED + _ROUNDS):
        started_ns = clock.now_ns()
        session.run(pixels)
        times_ns.append(clock.now_ns() - started_ns)
    return statistics.median_low(times_ns[_UNTIMED:])
