"""A soak's document calls what grows growing, and accounts for every call."""

from __future__ import annotations

import pytest

from benchmarks import soak_callers
from benchmarks.server_resources import Resources
from benchmarks.soak import MIB, Sample, Soaked, document
from benchmarks.soak_callers import FORMATS, mixed_pictures
from tests.benchmarks.test_pictures import ESPRESSO


def soaked(growth_bytes: int) -> Soaked:
    """Two minutes in which memory grows by so much a sample, after a warm-up in which it doubles."""
    samples = [
        Sample(
            2.0 * index,
            Resources((100 if index < 10 else 200) * MIB + index * growth_bytes, 90 * MIB, 300 * MIB, 40, 17),
            admitted=float(index % 3),
        )
        for index in range(60)
    ]
    return Soaked(120.0, 25.0, samples, {"REST: 200": 90, "gRPC, broken: INVALID_ARGUMENT": 10}, left_admitted=0.0)


@pytest.mark.parametrize(("growth_bytes", "verdict"), [(0, "flat"), (100_000, "grows"), (-100_000, "falls")])
def test_growth_after_the_warm_up_is_said(growth_bytes, verdict) -> None:
    """What memory does while caches fill is not judged; what it does afterwards is, in MiB an hour."""
    text = document(soaked(growth_bytes), "command")
    (row,) = [line for line in text.splitlines() if line.startswith("| resident memory")]
    assert row.endswith(f"| {verdict} |")
    assert f"{growth_bytes / MIB * 1800:+.2f} (" in row


def test_all_that_was_sent_is_accounted_for() -> None:
    """Each way a call ended has its share, and what the server still counts as in progress is shown."""
    text = document(soaked(0), "command")
    assert "## How 100 calls ended" in text
    assert "| REST: 200 | 90 | 90.00 |" in text
    assert "when all had ended: 0; most at a time: 2." in text


def test_pictures_are_of_every_size_and_format(monkeypatch) -> None:
    """JPEG and WebP at every size, PNG at the small ones, none twice."""
    monkeypatch.setattr(soak_callers, "MEGAPIXELS", (0.1, 0.5, 1.0))
    pictures = mixed_pictures([ESPRESSO])
    assert {picture.media_type for picture in pictures} == {"image/jpeg", "image/png", "image/webp"}
    assert len(pictures) == 3 * len(FORMATS) - 1
