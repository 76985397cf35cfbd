"""The binary form of tensors: what is written can be read, and what lies about its lengths is refused."""

from __future__ import annotations

import base64
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import MalformedRequest
from service.frontends.oip_tensors import (
    InputTensor,
    OutputTensor,
    bytes_elements,
    element_count,
    join_elements,
    uint8_elements,
)

ELEMENTS = st.lists(st.binary(max_size=40), min_size=1, max_size=5)


def text_input(elements, *, shape=None, is_base64: bool = True) -> InputTensor:
    return InputTensor("image", "BYTES", shape or (len(elements),), elements=elements, is_base64=is_base64)


def raw_input(raw: bytes, *shape: int, datatype: str = "BYTES") -> InputTensor:
    return InputTensor("image", datatype, shape, raw=raw)


@given(ELEMENTS)
def test_binary_elements_are_read_as_they_were_written(elements) -> None:
    """Whatever bytes the elements hold, none and zeros included, reading gives them back."""
    tensor = raw_input(join_elements(elements), len(elements))
    assert bytes_elements(tensor, len(elements)) == tuple(elements)


def test_the_binary_form_is_a_little_endian_length_and_the_bytes() -> None:
    """Each element is prefixed by four bytes of length, least significant first, as every client writes it."""
    assert join_elements([b"ab", b"", b"c"]) == b"\x02\0\0\0ab" + b"\0\0\0\0" + b"\x01\0\0\0c"


@given(elements=ELEMENTS, cut=st.integers(1, 10))
def test_a_truncated_tensor_is_refused(elements, cut) -> None:
    """Bytes missing at the end are noticed, even where only a length is cut."""
    raw = join_elements(elements)
    with pytest.raises(MalformedRequest):
        bytes_elements(raw_input(raw[: max(0, len(raw) - cut)], len(elements)), len(elements))


@given(elements=ELEMENTS, more=st.binary(min_size=1, max_size=10))
def test_bytes_too_many_are_refused(elements, more) -> None:
    """What follows the last element is no part of the tensor, whether or not it would make another element."""
    with pytest.raises(MalformedRequest):
        bytes_elements(raw_input(join_elements(elements) + more, len(elements)), len(elements))


@given(raw=st.binary(max_size=200), count=st.integers(1, 20))
def test_any_bytes_are_read_or_refused(raw, count) -> None:
    """Arbitrary bytes either are exactly so many elements or are malformed: lengths that lie reach nothing."""
    try:
        elements = bytes_elements(raw_input(raw, count), count)
    except MalformedRequest:
        return
    assert join_elements(elements) == raw
    assert len(elements) == count


def test_a_length_of_four_gigabytes_takes_no_memory() -> None:
    """The largest length that four bytes can state is compared with what is there, not believed."""
    with pytest.raises(MalformedRequest, match="1 elements"):
        bytes_elements(raw_input(b"\xff\xff\xff\xffabc", 1), 1)


def test_json_elements_are_base64() -> None:
    """JSON has no bytes, so its strings are base64; flat and nested lists mean the same."""
    texts = [base64.b64encode(content).decode() for content in (b"\xff\xd8", b"\0")]
    assert bytes_elements(text_input(texts), 2) == (b"\xff\xd8", b"\0")
    nested = text_input([[text] for text in texts], shape=(2, 1))
    assert bytes_elements(nested, 2) == (b"\xff\xd8", b"\0")


@pytest.mark.parametrize("text", ["not base64!", "YQ=", "é", "YQ==\n", "\ud800"])
def test_text_that_is_no_base64_is_refused_with_what_works(text) -> None:
    """A string that is not base64 is most likely a picture's bytes taken for text."""
    with pytest.raises(MalformedRequest, match="base64"):
        bytes_elements(text_input([text]), 1)


@pytest.mark.parametrize("elements", [[], ["YQ==", "YQ=="], [1], [None], [["YQ=="]], [{"b64": "YQ=="}]])
def test_elements_of_another_number_or_kind_are_refused(elements) -> None:
    """One element was announced; none, two, or one that is no string is malformed."""
    with pytest.raises(MalformedRequest):
        bytes_elements(text_input(elements, shape=(1,)), 1)


def test_pixels_are_read_flat_nested_and_binary() -> None:
    """The same pixels come out of all three ways of writing them."""
    nested = [[[[0, 1, 2], [3, 4, 255]]]]
    for tensor in (
        InputTensor("pixels", "UINT8", (1, 1, 2, 3), elements=nested),
        InputTensor("pixels", "UINT8", (1, 1, 2, 3), elements=[0, 1, 2, 3, 4, 255]),
        raw_input(bytes([0, 1, 2, 3, 4, 255]), 1, 1, 2, 3, datatype="UINT8"),
    ):
        assert uint8_elements(tensor, 6) == bytes([0, 1, 2, 3, 4, 255])


@pytest.mark.parametrize(
    "elements",
    [
        [0, 1],
        [0, 1, 256],
        [0, 1, -1],
        [0, 1, 2.0],
        [0, 1, "2"],
        [0, 1, None],
        [[0, 1], 2],
        [[0, 1, 2], [3]],
        [[[0, 1, 2]]],
    ],
)
def test_pixels_that_are_no_bytes_are_refused(elements) -> None:
    """Missing, surplus, unevenly nested, too deep, fractional and out-of-range numbers are malformed."""
    with pytest.raises(MalformedRequest):
        uint8_elements(InputTensor("pixels", "UINT8", (1, 3), elements=elements), 3)


@pytest.mark.parametrize("shape", [(), (0,), (-1,), (1, -2, -3), (1,) * 9])
def test_shapes_that_hold_nothing_are_refused(shape) -> None:
    """No dimensions, too many, zero and negative ones are malformed, even where their product is positive."""
    with pytest.raises(MalformedRequest, match="shape"):
        element_count(InputTensor("image", "BYTES", shape))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=20))
def test_numbers_are_exactly_the_networks(numbers) -> None:
    """As JSON and in binary form a float32 keeps every bit."""
    content = struct.pack(f"<{len(numbers)}f", *numbers)
    output = OutputTensor("probabilities", "FP32", (1, len(numbers)), content)
    assert output.to_elements() == numbers
    assert output.to_binary() == content


def test_text_is_written_as_text_and_as_bytes() -> None:
    """A BYTES output is strings in JSON and length-prefixed UTF-8 in binary form."""
    output = OutputTensor("label", "BYTES", (1,), ("café".encode(),))
    assert output.to_elements() == ["café"]
    assert output.to_binary() == b"\x05\0\0\0caf\xc3\xa9"
