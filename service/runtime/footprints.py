"""Footprints of variants on disk, under the store: measured once per machine, runtime and model, and then reused.

Each is measured in a process of its own, one after the other, so that nothing of another variant is counted and the
server that waits for it holds nothing of it afterwards.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from model_store import strict_json
from model_store.catalogue import CatalogueEntry
from model_store.footprint import SCHEMA_VERSION, Footprint, FootprintError, MemoryProfile
from service.runtime.footprint_probe import Asked
from service.runtime.profile_cache import PROFILES_FOLDER, Wanted, write_whole
from service.runtime.providers import Provider
from service.runtime.session import SessionError

logger = logging.getLogger(__name__)

_TIMEOUT_S = 300


def load_or_measure(
    store_root: Path,
    entries: Mapping[str, CatalogueEntry],
    wanted: Wanted,
    provider: Provider,
    *,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _label: None,
) -> Mapping[str, Footprint]:
    """The footprint of each of `entries`, run as `wanted` says: those that are known, and the others measured now.

    Raises:
        SessionError: one cannot be loaded, or not within some minutes.
    """
    path = _path(store_root, wanted)
    nothing = MemoryProfile(
        schema_version=SCHEMA_VERSION,
        machine=wanted.machine,
        runtime=wanted.runtime,
        workers=wanted.workers,
        batch_size_max=wanted.batch_sizes[-1],
        thread_widths=wanted.thread_widths,
        model_sha256={},
        footprints={},
    )
    known = _read(path, nothing)
    digests = {name: entry.model_sha256 for name, entry in entries.items()}
    found = {name: known.footprints[name] for name in entries if known.model_sha256.get(name) == digests[name]}
    missing = [name for name in entries if name not in found]
    if not missing:
        return found
    for at, name in enumerate(missing):
        progress(at, len(missing), name)
        found[name] = _measure(store_root, name, wanted, provider)
    progress(len(missing), len(missing), "measured")
    write_whole(
        path,
        dataclasses.replace(
            known, model_sha256=known.model_sha256 | digests, footprints={**known.footprints, **found}
        ).to_json(),
    )
    return found


def _measure(store_root: Path, name: str, wanted: Wanted, provider: Provider) -> Footprint:
    asked = Asked(
        store=str(store_root.resolve()),
        variant=name,
        provider=provider.value,
        workers=wanted.workers,
        thread_widths=wanted.thread_widths,
        batch_size_max=wanted.batch_sizes[-1],
    )
    command = [sys.executable, "-m", "service.runtime.footprint_probe", strict_json.dumps(asked)]
    try:
        # Our own module, with what our own store says.
        ended = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise SessionError(f"what {name} takes of memory could not be measured within {_TIMEOUT_S} s") from None
    if ended.returncode:
        raise SessionError(f"what {name} takes of memory could not be measured: {ended.stderr[-1000:]}")
    return strict_json.loads(Footprint, ended.stdout, f"the footprint of {name}")


def _path(store_root: Path, wanted: Wanted) -> Path:
    identity = f"{wanted.machine}\n{wanted.runtime}\n{wanted.workers}\n{wanted.batch_sizes[-1]}\n{wanted.thread_widths}"
    return store_root / PROFILES_FOLDER / f"memory-{hashlib.sha256(identity.encode()).hexdigest()[:12]}.json"


def _read(path: Path, nothing: MemoryProfile) -> MemoryProfile:
    """What is cached of the same machine and runs, or `nothing`."""
    try:
        cached = MemoryProfile.from_json(path.read_bytes())
    except FileNotFoundError:
        return nothing
    except (OSError, FootprintError) as error:
        logger.info("the cached memory profile cannot be used: %s", error)
        return nothing
    same = dataclasses.replace(cached, model_sha256={}, footprints={}) == nothing
    complete = cached.model_sha256.keys() <= cached.footprints.keys()
    return cached if same and complete else nothing
