"""A reload for servers whose tests have nothing to reload."""

from __future__ import annotations

from service.core.generation import Reloaded


async def never() -> Reloaded:
    raise AssertionError("nobody may ask for it")
