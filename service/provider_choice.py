"""Which execution provider `auto` means here: the fastest of those installed, by a measurement at start.

What is installed says little: a package for GPUs may find no GPU, and OpenVINO may lose on one processor what it wins
on another. So the middle one of the networks in the store is run on each, a batch with everything the machine has, in
whichever precision suits the provider best. All take turns, so that a slow moment hits them alike, and the CPU provider
stays where none is a tenth faster, so that noise does not choose. It takes a second or two, and nothing where there is
only one to choose. One provider runs all variants (docs/decisions/0021-openvino-bf16.md).
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from model_store.catalogue import CatalogueEntry
from service.core.clock import Clock
from service.runtime.precisions import refusal
from service.runtime.providers import Provider, SessionOptions, candidates
from service.runtime.session import Session, SessionError
from service.settings import Settings
from service.store_loading import routable_entries

logger = logging.getLogger(__name__)

NS_PER_MS = 1_000_000
_BATCH = 8
_ROUNDS = 7
_UNTIMED = 2
_TIE = 1.1


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
    sessions = [session for provider in found for session in _open(provider, tried, cores)]
    took_ns: dict[Provider, tuple[int, str]] = {}
    for session, ns in zip(sessions, _run_ns(sessions, clock), strict=True):
        took_ns[session.provider] = min(
            took_ns.get(session.provider, (ns, session.variant.name)), (ns, session.variant.name)
        )
    best = fastest({provider: ns for provider, (ns, _) in took_ns.items()})
    _say(best, took_ns)
    return best


def fastest(took_ns: Mapping[Provider, int]) -> Provider:
    """Who took the least; the CPU provider if nobody is a tenth faster, or nobody ran at all."""
    best = min(took_ns, key=lambda provider: took_ns[provider], default=Provider.CPU)
    if Provider.CPU in took_ns and took_ns[Provider.CPU] < _TIE * took_ns[best]:
        return Provider.CPU
    return best


def _say(best: Provider, took_ns: Mapping[Provider, tuple[int, str]]) -> None:
    """How fast each was, and by how much the best beside it."""
    figures = [
        f"{provider} {ns / NS_PER_MS:.1f} ms ({variant})"
        + ("" if provider is best else f", {ns / took_ns[best][0]:.2f} times that of {best}")
        for provider, (ns, variant) in took_ns.items()
    ]
    tried = "; ".join(figures) or "none of those installed ran"
    logger.info("provider auto is %s here; %d images in the fastest precision of each take: %s", best, _BATCH, tried)


def _middle_member(entries: Mapping[str, CatalogueEntry]) -> str:
    """The network in the middle by work, if there are several the larger."""
    flops = {entry.variant.member: entry.manifest.flops for entry in entries.values()}
    ordered = sorted(flops, key=lambda member: flops[member])
    return ordered[len(ordered) // 2]


def _open(provider: Provider, entries: Sequence[CatalogueEntry], cores: int) -> list[Session]:
    """A session for each precision that `provider` can run here; none if it does not run at all."""
    sessions: list[Session] = []
    options = SessionOptions(cores if provider.on_cpu else 1, _BATCH)
    for entry in entries:
        if refusal(provider, entry.variant.precision) is not None:
            continue
        try:
            session = Session(entry.read_model(), entry.variant, options, provider)
        except SessionError as error:
            logger.warning("%s", error)
            continue
        if session.provider is not provider:  # and the log says why
            return []
        sessions.append(session)
    return sessions


def _run_ns(sessions: Sequence[Session], clock: Clock) -> list[int]:
    """The median of what a batch takes in each, all in turns."""
    batches = [np.full((_BATCH, *(2 * (session.variant.resolution,)), 3), 127, np.uint8) for session in sessions]
    times_ns: list[list[int]] = [[] for _ in sessions]
    for _ in range(_UNTIMED + _ROUNDS):
        for session, pixels, times in zip(sessions, batches, times_ns, strict=True):
            started_ns = clock.now_ns()
            session.run(pixels)
            times.append(clock.now_ns() - started_ns)
    return [statistics.median_low(times[_UNTIMED:]) for times in times_ns]
