"""What a request asks of the scheduler: each step is timed once a request, pinned or free."""

from __future__ import annotations

import pytest

from benchmarks.request_cost import STEPS, measure, section


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("inside", [1, 16])
def test_every_step_of_a_request_is_timed(inside, pinned):
    """A figure for every step, in a table of one row, and their sum at most what all took."""
    found = measure(inside, pinned=pinned, requests=30)
    assert list(found.by_step_us) == list(STEPS)
    assert all(took_us > 0 for took_us in found.by_step_us.values())
    assert max(found.by_step_us.values()) <= found.p50_us <= found.p99_us
    (row,) = [line for line in section([found]).splitlines() if "others |" in line]
    assert row.startswith(f"| {'pinned' if pinned else 'free'}, {inside} others |")
    assert row.count("|") == len(STEPS) + 4
