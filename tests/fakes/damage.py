"""Damaged files: what senders, disks and attackers make of a picture."""

from __future__ import annotations

from hypothesis import strategies as st


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes], *, changes_max: int) -> bytes:
    """One of `whole`, with bytes flipped, cut, doubled and inserted."""
    picture = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(1, changes_max))):
        at = draw(st.integers(0, len(picture)))
        match draw(st.sampled_from(["flip", "cut", "double", "insert"])):
            case "flip":
                picture[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del picture[at : at + draw(st.integers(1, 40))]
            case "double":
                picture[at:at] = picture[at : at + draw(st.integers(1, 40))]
            case _:
                picture[at:at] = draw(st.binary(min_size=1, max_size=8))
    return bytes(picture)
