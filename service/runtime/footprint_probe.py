"""Measures what one variant takes of memory, in a process that does nothing else: `python -m` this, `Asked` as JSON.

Loads and runs it as the server does, on as many threads side by side as there are workers, and prints its `Footprint`
as JSON.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_store import strict_json
from model_store.catalogue import Catalogue, CatalogueEntry
from model_store.footprint import Footprint
from service.runtime import process_memory
from service.runtime.providers import Provider
from service.runtime.session import Session, SessionKey, open_sessions, warm_up

_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """Which variant of which store, and how it is run."""

    store: str
    variant: str
    provider: str
    workers: int
    thread_widths: tuple[int, ...]
    batch_size_max: int


def measure(asked: Asked) -> Footprint:
    """In this process; what was loaded stays loaded.

    Raises:
        StoreError, SessionError: it cannot be loaded.
    """
    entry = Catalogue.open(Path(asked.store), only=[asked.variant]).entries[asked.variant]
    _map_libraries(entry, asked)
    before = process_memory.resident_bytes() or 0
    process_memory.forget_maximum()
    began_ns = time.monotonic_ns()
    sessions = _open(entry, asked, asked.thread_widths)
    for session in sessions.values():
        warm_up(session, (1,))
    load_ns = time.monotonic_ns() - began_ns
    loading = process_memory.resident_bytes_max() - before
    _run_side_by_side(list(sessions.values()), asked, entry)
    process_memory.give_back()
    resident = max(1, (process_memory.resident_bytes() or 0) - before)
    return Footprint(resident, max(resident, loading), load_ns)


def _open(entry: CatalogueEntry, asked: Asked, widths: Sequence[int]) -> Mapping[SessionKey, Session]:
    return open_sessions(
        [entry], widths, Provider(asked.provider), batch_size_max=asked.batch_size_max, workers=asked.workers
    )


def _map_libraries(entry: CatalogueEntry, asked: Asked) -> None:
    """Load and run once for nothing: the libraries' code, and what they set up, is there once for all variants."""
    (session,) = _open(entry, asked, asked.thread_widths[:1]).values()
    warm_up(session, (1,))
    session.shrink_arena()
    del session
    process_memory.give_back()


def _run_side_by_side(sessions: Sequence[Session], asked: Asked, entry: CatalogueEntry) -> None:
    side = entry.variant.resolution
    batch = np.zeros((asked.batch_size_max, side, side, 3), np.uint8)
    for session in sessions:
        runs = asked.workers // session.threads
        with ThreadPoolExecutor(runs) as pool:
            list(pool.map(lambda _, session=session: session.classify(batch, 5), range(_ROUNDS * runs)))


def main() -> None:
    """See the module."""
    asked = strict_json.loads(Asked, sys.argv[1], "what is asked")
    sys.stdout.write(strict_json.dumps(measure(asked)))


if __name__ == "__main__":
    main()
