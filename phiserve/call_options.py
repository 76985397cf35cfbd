"""What one call asks of the server, checked where the client itself depends on it; the rest the server checks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict

from phiserve.errors import InvalidArgument

NS_PER_MS = 1_000_000

OnMissName = Literal["reject", "late"]


class OptionArguments(TypedDict, total=False):
    """The keyword arguments of `classify` and its siblings. What is absent or None is left to the server.

    `budget_ms`: hard budget, from received whole to answer ready. `top_k`: how many classes. `variant`: pin to one.
    `min_accuracy`: least top-1 in percent. `target_ms`: soft latency target. `priority`: 0..9, higher first among
    the equally urgent. `on_miss`: what to do when no variant can make the budget.
    """

    budget_ms: float | None
    top_k: int | None
    variant: str | None
    min_accuracy: float | None
    target_ms: float | None
    priority: int | None
    on_miss: OnMissName | None


@dataclass(frozen=True, slots=True)
class CallOptions:
    """See `OptionArguments`.

    Raises:
        InvalidArgument: a budget or a target that is no time, or what one of the wires cannot tell from nothing asked.
    """

    budget_ms: float | None = None
    top_k: int | None = None
    variant: str | None = None
    min_accuracy: float | None = None
    target_ms: float | None = None
    priority: int | None = None
    on_miss: OnMissName | None = None

    def __post_init__(self) -> None:
        """See Raises."""
        for name, value in (("budget_ms", self.budget_ms), ("target_ms", self.target_ms)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InvalidArgument(f"{name} must be a number of milliseconds above 0, got {value!r}")
        if self.top_k is not None and self.top_k < 1:
            raise InvalidArgument(f"top_k must be at least 1, got {self.top_k}")
        if self.variant == "":
            raise InvalidArgument("variant must be a name, see Client.variants; leave it out to let the server choose")
        if self.on_miss not in (None, "reject", "late"):
            raise InvalidArgument(f"on_miss must be 'reject' or 'late', got {self.on_miss!r}")

    @property
    def budget_ns(self) -> int | None:
        """The budget on the client's clock; at least 1, as a budget that rounds to none is still one."""
        return None if self.budget_ms is None else max(1, round(self.budget_ms * NS_PER_MS))

    @property
    def is_late_allowed(self) -> bool:
        """Whether an answer after the budget is still wanted."""
        return self.on_miss == "late"
