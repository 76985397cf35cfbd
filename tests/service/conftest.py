"""What tests that load real variants share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service.runtime import calibration


@pytest.fixture(scope="module")
def rough_figures() -> Iterator[None]:
    """The machine is measured in three rounds and with small pictures, for tests that care for no figure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "POINT_NS", 1)
        patch.setattr(calibration, "_DECODE_SIZES", ((100, 75), (400, 300)))
        yield
