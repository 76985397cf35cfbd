"""Memory figures: a variant holds at least its weights, a waiting picture no more than the stated bound."""

from __future__ import annotations

import pytest

from benchmarks import memory
from benchmarks.memory import MIB, Held, document, picture_bytes


@pytest.mark.parametrize("format_name", ["JPEG", "WEBP"])
def test_no_waiting_picture_exceeds_the_bound(monkeypatch, format_name) -> None:
    """Whatever a sender sends, what waits is bounded by the network's side: less than 96 s² bytes."""
    monkeypatch.setattr(memory, "MEGAPIXELS", (0.01, 0.1, 0.3, 1.0, 3.0))  # far on both sides of the network's
    side_px = 64
    found = picture_bytes(side_px, format_name)
    assert all(0 < size < 96 * side_px**2 for _, size in found)


def test_the_document_sums_up_and_states_the_bound() -> None:
    """Each session has its row in MiB, all are summed, and the queue's bound is that of its pictures."""
    rows = [Held("lite0", 1, 18 * MIB, 20 * MIB, 40 * MIB), Held("lite0", 2, 18 * MIB, 21 * MIB, 45 * MIB)]
    sizes = [(size, MIB) for size in (0.25, 1.0, 2.0, 3.0, 6.0, 12.0, 24.0)]
    text = document(rows, {"JPEG": sizes}, 256, "command")
    assert "| lite0 | 2 | 18.0 | 21.0 | 45.0 |" in text
    assert "All of them: 85 MiB." in text
    assert "less than 96 s² bytes, 6.0 MiB here" in text
    assert "holds at most 3072 MiB whatever is sent, 512 MiB of the largest of these" in text
