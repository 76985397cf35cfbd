"""Request bodies, read as they stream and never beyond their bounds: one image, or several in multipart/form-data.

Nothing is written to disk, and nothing is kept of what exceeds a bound. Images are not looked into here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request
from starlette.types import Scope

from service.errors import ImageTooLarge, InvalidArgument, InvalidImage, UnsupportedMediaType

BEGAN_NS, RECEIVED_NS = "phiserve.began_ns", "phiserve.received_ns"
"""Where an exchange's scope has when its first byte was read, and all of it, by the engine's clock."""

IMAGE_PART = "image"
"""The name every part of a multipart body must have."""

# curl says x-www-form-urlencoded for --data-binary unless told otherwise, and nobody sends a picture so encoded.
_RAW_TYPES = frozenset({b"", b"application/octet-stream", b"application/x-www-form-urlencoded"})
_MULTIPART = b"multipart/form-data"
_MEDIA_TYPE_DETAIL = (
    "send the image as the body with Content-Type image/* or application/octet-stream, "
    f"or as multipart/form-data with parts named {IMAGE_PART!r}"
)


class BodyTooLarge(ImageTooLarge):
    """The body exceeds its bound and was not read to its end: the connection cannot be used again."""


@dataclass(frozen=True, slots=True)
class BodyLimits:
    """Bounds of one request body.

    `image_bytes_max` for each image, `body_bytes_max` for a whole multipart body, `images_max` for its parts.
    """

    image_bytes_max: int
    body_bytes_max: int
    images_max: int


def times_ns(scope: Scope, now_ns: Callable[[], int]) -> tuple[int, int]:
    """When the first byte and when all of the exchange had been read; now, where the HTTP server did not note it.

    On a busy event loop the application is told of it a turn or two later, which its caller waits for.
    """
    received_ns = scope.get(RECEIVED_NS) or now_ns()
    return scope.get(BEGAN_NS, received_ns), received_ns


def is_one_image(headers: Sequence[tuple[bytes, bytes]], image_bytes_max: int) -> bool:
    """Whether the body is said to be one image as it is, neither empty nor over its bound: `read_images` takes it."""
    fields = _fields(headers)
    length = fields.get(b"content-length", b"")
    if b"content-encoding" in fields or not length.isdigit() or len(length) > len(str(image_bytes_max)):
        return False
    return 0 < int(length) <= image_bytes_max and _is_raw(_media_type(fields.get(b"content-type", b"")))


async def read_images(request: Request, limits: BodyLimits) -> tuple[bytes | ImageTooLarge, ...]:
    """The images of a request in order: one for a raw body, one a part for multipart/form-data.

    An image over its own bound inside a multipart body is replaced by the error it will be answered with, so
    that its neighbours are not affected.

    Raises:
        BodyTooLarge: by Content-Length before anything is read, or as soon as the bytes exceed the bound.
        InvalidImage: an empty body, or multipart that cannot be parsed.
        InvalidArgument: a part of another name, no part, or too many.
        UnsupportedMediaType: another Content-Type, or a Content-Encoding.
        ClientDisconnect: the caller left before the body was complete.
    """
    fields = _fields(request.scope["headers"])
    _check_encoding(fields)
    media_type = _media_type(fields.get(b"content-type", b""))
    if _is_raw(media_type):
        return (await _read_raw(request, fields, limits.image_bytes_max),)
    if media_type == _MULTIPART:
        return await _read_multipart(request, fields, limits)
    raise UnsupportedMediaType(f"this Content-Type is not served; {_MEDIA_TYPE_DETAIL}")


async def read_body(request: Request, bytes_max: int) -> bytes:
    """The whole body, whatever its Content-Type says; it may be empty.

    Raises:
        BodyTooLarge: as `read_images`.
        UnsupportedMediaType: a Content-Encoding.
        ClientDisconnect: the caller left before the body was complete.
    """
    fields = _fields(request.scope["headers"])
    _check_encoding(fields)
    return await _read_whole(request, fields, bytes_max)


async def _read_whole(request: Request, fields: Mapping[bytes, bytes], bytes_max: int) -> bytes:
    _check_content_length(fields, bytes_max)
    chunks, size = [], 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > bytes_max:
            raise BodyTooLarge.beyond(bytes_max)
        if chunk:  # the last is empty: joining a body that came whole with it would copy all of it
            chunks.append(chunk)
    return b"".join(chunks)


async def _read_raw(request: Request, fields: Mapping[bytes, bytes], bytes_max: int) -> bytes:
    body = await _read_whole(request, fields, bytes_max)
    if not body:
        raise InvalidImage(f"the body is empty; {_MEDIA_TYPE_DETAIL}")
    return body


async def _read_multipart(
    request: Request, fields: Mapping[bytes, bytes], limits: BodyLimits
) -> tuple[bytes | ImageTooLarge, ...]:
    _check_content_length(fields, limits.body_bytes_max)
    _, options = parse_options_header(fields[b"content-type"])
    boundary = options.get(b"boundary", b"")
    if not boundary:
        raise InvalidImage("the multipart Content-Type has no boundary; let the HTTP client write that header")
    try:
        collector = _PartCollector(boundary, limits)
        size = 0
        async for chunk in request.stream():
            size += len(chunk)
            if size > limits.body_bytes_max:
                raise BodyTooLarge.beyond(limits.body_bytes_max)
            collector.feed(chunk)
        return collector.finish()
    except FormParserError as error:
        raise InvalidImage(f"the multipart body cannot be parsed ({error})") from error


class _PartCollector:
    """Gathers the parts of one multipart body in memory, image by image."""

    def __init__(self, boundary: bytes, limits: BodyLimits) -> None:
        self._limits = limits
        self._images: list[bytes | ImageTooLarge] = []
        self._field = b""
        self._value = b""
        self._disposition = b""
        self._content = bytearray()
        self._complete = False
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_header_field": self._add_to_field,
                "on_header_value": self._add_to_value,
                "on_header_end": self._end_header,
                "on_headers_finished": self._check_name,
                "on_part_data": self._add_to_content,
                "on_part_end": self._end_part,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> None:
        """Parse the next bytes of the body."""
        self._parser.write(chunk)

    def finish(self) -> tuple[bytes | ImageTooLarge, ...]:
        """All images, once the body has been fed whole."""
        if not self._complete:
            raise InvalidImage("the multipart body is empty or ends before its closing boundary")
        if not self._images:
            raise InvalidArgument(f"the multipart body has no part; send 1 to {self._limits.images_max} named 'image'")
        return tuple(self._images)

    def _begin_part(self) -> None:
        if len(self._images) == self._limits.images_max:
            raise InvalidArgument(f"more than {self._limits.images_max} parts; send the others in further requests")
        self._disposition = b""
        self._content = bytearray()

    def _add_to_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_to_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._field.lower() == b"content-disposition":
            self._disposition = self._value
        self._field = self._value = b""

    def _check_name(self) -> None:
        kind, options = parse_options_header(self._disposition)
        name = options.get(b"name", b"")
        if kind != b"form-data" or name != IMAGE_PART.encode():
            shown = name[:64].decode("utf-8", "replace")
            raise InvalidArgument(
                f"a part is named {shown!r}; every part must be named {IMAGE_PART!r}, options go into the query string"
            )

    def _add_to_content(self, data: bytes, start: int, end: int) -> None:
        # One byte over the bound is kept: enough to know it was exceeded.
        room = self._limits.image_bytes_max + 1 - len(self._content)
        self._content += data[start : min(end, start + room)]

    def _end_part(self) -> None:
        if len(self._content) > self._limits.image_bytes_max:
            self._images.append(ImageTooLarge.beyond(self._limits.image_bytes_max))
        else:
            self._images.append(bytes(self._content))
        self._content = bytearray()

    def _end(self) -> None:
        self._complete = True


def _fields(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The header, by lower-case names, the first of each: Starlette's own searches all of it for every look-up."""
    return dict(reversed(headers))


def _media_type(content_type: bytes) -> bytes:
    return content_type.partition(b";")[0].strip().lower()


def _is_raw(media_type: bytes) -> bool:
    return media_type in _RAW_TYPES or media_type.startswith(b"image/")


def _check_encoding(fields: Mapping[bytes, bytes]) -> None:
    if fields.get(b"content-encoding", b"identity").strip().lower() not in {b"", b"identity"}:
        raise UnsupportedMediaType("Content-Encoding is not supported; send the image as it is")


def _check_content_length(fields: Mapping[bytes, bytes], bytes_max: int) -> None:
    declared = fields.get(b"content-length", b"")
    if not declared.isdigit():
        return  # absent, or the HTTP server's to refuse
    if len(declared) > len(str(bytes_max)) + 9 or int(declared) > bytes_max:
        raise BodyTooLarge.beyond(bytes_max)
