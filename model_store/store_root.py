"""Where the store is when nobody says: one rule, used by the command line and the server alike."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

STORE_VARIABLE = "PHISERVE_STORE"


def default_store_root(environ: Mapping[str, str] = os.environ, package: Path = Path(__file__).parent) -> Path:
    """The store's folder, which may not exist yet.

    `$PHISERVE_STORE` if set; else `artifacts/` beside this package when it runs from a source checkout (a
    `pyproject.toml` is beside it); else `phiserve/store` in the user's cache (`$XDG_CACHE_HOME` or `~/.cache`),
    since an installed package's folder is not ours to write to.
    """
    if chosen := environ.get(STORE_VARIABLE):
        return Path(chosen).expanduser().absolute()
    if (package.parent / "pyproject.toml").is_file():
        return package / "artifacts"
    cache = environ.get("XDG_CACHE_HOME") or ""
    # The XDG specification: a relative path there is invalid and must be ignored.
    base = Path(cache) if Path(cache).is_absolute() else Path.home() / ".cache"
    return base / "phiserve" / "store"
