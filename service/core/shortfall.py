"""What of a queue would be lost if a run started now, by the queue's own deadlines.

Fluid estimate: by the deadline of the request at position j, the workers free by then can have given
(time left) core-nanoseconds each; j+1 requests at the cheapest choice need that many core-nanoseconds. The
worst shortfall over the queue is what is lost. Looks at geometrically spaced positions, so that a queue
of 1,000 costs about twenty looks per thread width. Knows nothing of requests that have not arrived.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate

from service.core.deadline_queue import DeadlineQueue
from service.core.menu import Choice

_LOOKAHEAD_RATIO = 1.5
_LENGTHS_MAX = 4096
"""For how many lengths of queues it is remembered where to look."""


class Shortfall:
    """The expected loss, in top-1 points, among the requests that stay queued after a run that starts at `now_ns`."""

    __slots__ = (
        "_cheapest",
        "_due",
        "_free_at_ns",
        "_idle",
        "_missing_by_run",
        "_needs_by_width",
        "_now_ns",
        "_overhead_ns",
        "_queue",
    )

    def __init__(
        self,
        queue: DeadlineQueue,
        cheapest: Choice,
        *,
        now_ns: int,
        overhead_ns: int,
        idle: int,
        free_at_ns: Sequence[int],
    ) -> None:
        """`idle` workers, and others that are free at `free_at_ns`; nothing is looked at before it is asked for."""
        self._queue = queue
        self._cheapest = cheapest
        self._now_ns = now_ns
        self._overhead_ns = overhead_ns
        self._idle = idle
        self._free_at_ns = free_at_ns
        self._due: list[tuple[int, int, int]] = []
        self._needs_by_width: dict[int, list[tuple[int, int, int]]] = {}
        self._missing_by_run: dict[tuple[int, int], tuple[list[int], list[int]]] = {}

    def after(self, ends_ns: int, threads: int, taken: int) -> float:
        """Loss if `threads` workers are busy until `ends_ns` and the first `taken` requests leave the queue."""
        counts, missing_ns = self._missing_by_run.get((ends_ns, threads)) or self._missing(ends_ns, threads)
        each_ns = self._cheapest.core_ns_per_image
        worst_ns = missing_ns[bisect_right(counts, taken)]
        return max(0.0, worst_ns - taken * each_ns) / each_ns * self._cheapest.accuracy

    def _missing(self, ends_ns: int, threads: int) -> tuple[list[int], list[int]]:
        """Requests up to each position, and the most core time that is missing there or later; none after the last.

        Kept by run, since the same run is asked about for several places of its batch in the queue.
        """
        needs = self._needs_by_width.get(threads)
        if needs is None:
            needs = self._needs_by_width[threads] = self._needs(threads)
        missing_ns = [0]
        missing_ns += [
            needed_ns - threads * (due_ns - ends_ns) if due_ns > ends_ns else needed_ns
            for _, needed_ns, due_ns in reversed(needs)
        ]
        found = [count for count, _, _ in needs], list(accumulate(missing_ns, max))[::-1]
        self._missing_by_run[ends_ns, threads] = found
        return found

    def _look(self) -> list[tuple[int, int, int]]:
        """Per looked-at position: requests up to it, core time they need, and when the last of them is due.

        Runs are not fluid: of W workers the last may still be on a run that the sum counts as done.
        """
        queue, overhead_ns = self._queue, self._overhead_ns
        grain = (self._idle + len(self._free_at_ns) - 1) * self._cheapest.alone_ns
        positions, counts = _geometric_positions(len(queue))
        return [
            (count, work_ns + grain, due_ns - overhead_ns)
            for count, work_ns, due_ns in zip(
                counts, self._cheapest.works_ns(counts), queue.due_at(positions), strict=True
            )
        ]

    def _needs(self, threads: int) -> list[tuple[int, int, int]]:
        """The same, with the core time that is needed beyond what others give; only where any is."""
        if not self._due:
            self._due = self._look()
        others, now_ns, found = self._idle - threads, self._now_ns, []
        if not others and not self._free_at_ns:
            return self._due
        for count, work_ns, due_ns in self._due:
            given = others * (due_ns - now_ns) if due_ns > now_ns else 0
            for free_ns in self._free_at_ns:
                if due_ns > free_ns:
                    given += due_ns - free_ns
            if work_ns > given:
                found.append((count, work_ns - given, due_ns))
        return found


@lru_cache(maxsize=_LENGTHS_MAX)
def _geometric_positions(length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where to look, and how many requests there are up to there."""
    counts, count = [], 1
    while count <= length:
        counts.append(count)
        count = max(count + 1, int(count * _LOOKAHEAD_RATIO))
    if counts and counts[-1] != length:
        counts.append(length)
    return tuple(count - 1 for count in counts), tuple(counts)
