"""Pinned buffers: where there is no CUDA nothing happens, and where there is the buffer stays what it was."""

from __future__ import annotations

import numpy as np

from service.runtime.page_lock import page_lock


def test_a_buffer_keeps_its_content_and_can_be_pinned_again():
    """Pinned or not, the bytes are untouched; once a buffer is gone, its memory may be pinned for another one."""
    answers = set()
    for value in (7, 8):
        buffer = np.full(1_000_000, value, np.uint8)
        answers.add(page_lock(buffer))
        assert (buffer == value).all()
        del buffer
    assert len(answers) == 1
