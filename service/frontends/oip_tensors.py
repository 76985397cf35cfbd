"""Tensors of the Open Inference Protocol as values of ours, and their binary form: no wire's messages, no meaning.

In binary form numbers are little-endian without padding, and each element of a BYTES tensor is a 4-byte little-endian
length followed by so many bytes (KServe, "Binary Tensor Data Extension"). Reading believes no length that it was told.
"""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from service.errors import MalformedRequest

BYTES = "BYTES"
FP32 = "FP32"
UINT8 = "UINT8"

ELEMENTS_MAX = 500_000
"""Most elements of a request that are read one by one, and not in binary form: three pictures of 224 pixels.

They hold up the event loop, by 0.2 us each where they are JSON: 0.1 s for so many.
"""

_LENGTH_BYTES = 4
_DIMENSIONS_MAX = 8
_NAME_SHOWN_MAX = 64


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor as metadata describes it; -1 in `shape` is a size that each request chooses."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class InputTensor:
    """A tensor of a request, as it came: `raw` in binary form, or `elements`, flat or nested as the shape says.

    `is_base64`: the elements of a BYTES tensor are base64 text, since JSON has no bytes.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | None = None
    elements: Sequence[Any] = ()
    is_base64: bool = False


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor of an answer: `content` are the numbers in binary form, or the elements of a BYTES tensor."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    content: bytes | tuple[bytes, ...]

    def to_binary(self) -> bytes:
        """The binary form, whatever the datatype."""
        return self.content if isinstance(self.content, bytes) else join_elements(self.content)

    def to_elements(self) -> list[Any]:
        """The elements, flat: numbers exactly as the network gave them, or text."""
        if isinstance(self.content, bytes):
            assert self.datatype == FP32, f"no other number is answered with, {self.datatype} is"
            return list(struct.unpack(f"<{len(self.content) // 4}f", self.content))
        return [element.decode("utf-8") for element in self.content]


def shown(name: str) -> str:
    """A caller's name for a message, cut where it would drown the rest."""
    return repr(name if len(name) <= _NAME_SHOWN_MAX else name[:_NAME_SHOWN_MAX] + "…")


def element_count(tensor: InputTensor) -> int:
    """How many elements the shape says.

    Raises:
        MalformedRequest: no shape, too many dimensions, or one that is not positive.
    """
    if not 1 <= len(tensor.shape) <= _DIMENSIONS_MAX or min(tensor.shape) < 1:
        raise MalformedRequest(
            f"input {shown(tensor.name)} has shape {list(tensor.shape)[: _DIMENSIONS_MAX + 1]}; "
            f"send 1 to {_DIMENSIONS_MAX} dimensions, each 1 or more"
        )
    return math.prod(tensor.shape)


def bytes_elements(tensor: InputTensor, count: int) -> tuple[bytes, ...]:
    """The `count` elements of a BYTES tensor.

    Raises:
        MalformedRequest: another number of elements, a length that leads beyond the end, or no base64.
    """
    if tensor.raw is not None:
        elements = _split(tensor, tensor.raw, count)
    else:
        flat = _flat(tensor)
        if len(flat) != count:
            raise _wrong_count(tensor, count, len(flat))
        elements = tuple(_as_bytes(tensor, element) for element in flat)
    return tuple(_from_base64(tensor, element) for element in elements) if tensor.is_base64 else elements


def uint8_elements(tensor: InputTensor, count: int) -> bytes:
    """The `count` numbers of a UINT8 tensor, one byte each.

    Raises:
        MalformedRequest: another number of them, or something that is no integer from 0 to 255.
    """
    if tensor.raw is not None:
        if len(tensor.raw) != count:
            raise _wrong_count(tensor, count, len(tensor.raw), "bytes")
        return tensor.raw
    flat = _flat(tensor)
    if len(flat) != count:
        raise _wrong_count(tensor, count, len(flat))
    try:
        return bytes(flat)
    except (TypeError, ValueError):
        raise MalformedRequest(f"input {shown(tensor.name)} is {UINT8}; send integers from 0 to 255") from None


def join_elements(elements: Iterable[bytes]) -> bytes:
    """The binary form of a BYTES tensor."""
    return b"".join(chain.from_iterable((struct.pack("<I", len(element)), element) for element in elements))


def _split(tensor: InputTensor, raw: bytes, count: int) -> tuple[bytes, ...]:
    elements: list[bytes] = []
    offset = 0
    while offset < len(raw) and len(elements) < count:
        start = offset + _LENGTH_BYTES
        offset = start + int.from_bytes(raw[offset:start], "little")
        elements.append(raw[start:offset])
    # Also when a length, or what is left of one, leads beyond the end: slices only stop there.
    if offset != len(raw) or len(elements) != count:
        raise MalformedRequest(
            f"input {shown(tensor.name)} is not {count} elements, each a 4-byte little-endian length and its bytes"
        )
    return tuple(elements)


def _flat(tensor: InputTensor) -> Sequence[Any]:
    """The elements without nesting, at most as deep as the shape, in the order of the binary form."""
    elements = tensor.elements
    for _ in range(len(tensor.shape) - 1):
        if not elements or not isinstance(elements[0], list):
            break
        if not all(isinstance(row, list) for row in elements):
            raise MalformedRequest(
                f"the data of input {shown(tensor.name)} is nested unevenly; send it flat, or nested as its shape says"
            )
        elements = list(chain.from_iterable(elements))
    return elements


def _as_bytes(tensor: InputTensor, element: object) -> bytes:
    if isinstance(element, bytes):
        return element
    if isinstance(element, str):
        return element.encode("utf-8", "surrogatepass")
    raise MalformedRequest(f"input {shown(tensor.name)} is {BYTES}; send its elements as strings of base64")


def _from_base64(tensor: InputTensor, element: bytes) -> bytes:
    try:
        return base64.b64decode(element, validate=True)
    except binascii.Error:
        raise MalformedRequest(
            f"input {shown(tensor.name)} holds text that is not base64; encode each picture's bytes in base64, or send "
            "them in binary form"
        ) from None


def _wrong_count(tensor: InputTensor, wanted: int, got: int, unit: str = "elements") -> MalformedRequest:
    return MalformedRequest(
        f"input {shown(tensor.name)} of shape {list(tensor.shape)} has {wanted} {unit}, but {got} were sent"
    )
