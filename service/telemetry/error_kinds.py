"""What kind of error something was, in one word, for labels, spans and log lines. Bounded by the error tree."""

from __future__ import annotations

import re

from service.errors import PhiserveError

UNEXPECTED = "unexpected"
"""The kind of every error outside the error tree: a bug."""


_kinds: dict[type[BaseException], str] = {}


def kind_of(error: type[BaseException]) -> str:
    """Our class in snake case, `deadline_exceeded`: the nearest ancestor that is directly under the tree's root."""
    if (kind := _kinds.get(error)) is None:  # asked for each error, of which a flood has many, and few are new
        kind = _kinds[error] = _kind_of(error)
    return kind


def _kind_of(error: type[BaseException]) -> str:
    for ancestor in error.__mro__:
        if PhiserveError in ancestor.__bases__:
            return re.sub(r"(?<!^)(?=[A-Z])", "_", ancestor.__name__).lower()
    return UNEXPECTED
