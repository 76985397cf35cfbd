"""Which request ids are taken over from callers: an id ties an answer to the log lines of its request.

For every wire. It neither logs nor keeps anything.
"""

from __future__ import annotations

import os
import re

# What may be echoed: it goes into a header, a URN and log lines, so nothing that any of them treats specially.
_ACCEPTED_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~+/=:@-]{0,127}", re.ASCII)


def accepted_request_id(given: str | None) -> str:
    """`given` if it is safe to echo, else a fresh random one (32 hex digits).

    Safe is 1..128 characters of letters, digits and `._~+/=:@-`, the first a letter or digit.
    """
    if given is not None and _ACCEPTED_ID.fullmatch(given):
        return given
    return os.urandom(16).hex()
