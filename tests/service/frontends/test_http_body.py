"""Reading bodies: what is one image, what is several, and where a bound ends the reading."""

from __future__ import annotations

import asyncio
import contextlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect, Request

from service.errors import ImageTooLarge, InvalidArgument, InvalidImage, PhiserveError, UnsupportedMediaType
from service.frontends.http_body import BodyLimits, BodyTooLarge, read_images

LIMITS = BodyLimits(image_bytes_max=100, body_bytes_max=1000, images_max=3)
BOUNDARY = "frontier"
MULTIPART = {"content-type": f"multipart/form-data; boundary={BOUNDARY}"}


class Upload:
    """A request whose body arrives chunk by chunk; remembers how many were taken."""

    def __init__(self, chunks: list[bytes], headers: dict[str, str], *, ends: bool = True) -> None:
        self.taken = 0
        self._chunks = chunks
        self._ends = ends
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        self.request = Request({"type": "http", "method": "POST", "headers": raw}, self._receive)

    async def _receive(self) -> dict[str, object]:
        if self.taken == len(self._chunks):
            return {"type": "http.disconnect"}
        self.taken += 1
        more = self.taken < len(self._chunks) or not self._ends
        return {"type": "http.request", "body": self._chunks[self.taken - 1], "more_body": more}

    def read(self, limits: BodyLimits = LIMITS) -> tuple[bytes | ImageTooLarge, ...]:
        return asyncio.run(read_images(self.request, limits))


def form(*parts: bytes, name: str = "image") -> bytes:
    blocks = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="a.jpg"\r\n'
        f"Content-Type: image/jpeg\r\n\r\n".encode()
        + part
        + b"\r\n"
        for part in parts
    ]
    return b"".join(blocks) + f"--{BOUNDARY}--\r\n".encode()


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)] or [b""]


@pytest.mark.parametrize(
    "content_type",
    [
        None,
        "image/jpeg",
        "image/png; q=1",
        "IMAGE/WEBP",
        "application/octet-stream",
        "application/x-www-form-urlencoded",
    ],
)
def test_a_raw_body_is_one_image(content_type) -> None:
    """Any image type, octets, no type, and the type curl sends by default: the body is the image."""
    headers = {} if content_type is None else {"content-type": content_type}
    assert Upload([b"pic", b"", b"ture"], headers).read() == (b"picture",)


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "multipart/mixed; boundary=x"])
def test_another_content_type_is_refused_unread(content_type) -> None:
    """What cannot be an image is refused before a byte is read, and the served types are named."""
    upload = Upload([b"picture"], {"content-type": content_type})
    with pytest.raises(UnsupportedMediaType, match="multipart/form-data with parts named 'image'"):
        upload.read()
    assert upload.taken == 0


def test_a_compressed_body_is_refused() -> None:
    """A Content-Encoding would need unpacking without a known size, which is not done."""
    with pytest.raises(UnsupportedMediaType, match="Content-Encoding"):
        Upload([b"picture"], {"content-encoding": "gzip"}).read()


def test_an_empty_body_is_not_an_image() -> None:
    """A request without a body is told how to send one."""
    with pytest.raises(InvalidImage, match="the body is empty; send the image as the body"):
        Upload([b""], {}).read()


@pytest.mark.parametrize("headers", [{}, MULTIPART], ids=["raw", "multipart"])
@pytest.mark.parametrize("declared", ["1001", "9" * 5000])
def test_a_declared_length_over_the_bound_is_refused_unread(headers, declared) -> None:
    """Content-Length alone is enough to refuse, however many digits it has: nothing is read."""
    upload = Upload([b"x" * 2000], headers | {"content-length": declared})
    with pytest.raises(BodyTooLarge):
        upload.read()
    assert upload.taken == 0


@pytest.mark.parametrize("headers", [{}, MULTIPART], ids=["raw", "multipart"])
def test_an_undeclared_length_is_refused_as_soon_as_it_exceeds(headers) -> None:
    """A stream without a length is cut at the chunk that crosses the bound; later chunks are not taken."""
    chunks = [b"x" * 60] * 20 if not headers else cut(form(b"x" * 3000), 60)
    upload = Upload(chunks, headers)
    with pytest.raises(BodyTooLarge, match="at most"):
        upload.read()
    assert upload.taken == (17 if headers else 2)


def test_exactly_the_bound_is_taken() -> None:
    """An image of as many bytes as are allowed is inside the bound, raw and as a part."""
    image = b"x" * LIMITS.image_bytes_max
    assert Upload([image], {"content-length": "100"}).read() == (image,)
    assert Upload([form(image)], MULTIPART).read() == (image,)


@given(
    parts=st.lists(
        st.one_of(st.binary(max_size=100), st.sampled_from([b"\r\n", b"\r\n--frontie", b"--frontier"])),
        min_size=1,
        max_size=3,
    ),
    chunk_size=st.integers(1, 300),
)
def test_parts_come_out_as_they_went_in(parts, chunk_size) -> None:
    """However the body is cut into chunks, each part's bytes are kept exactly, in order."""
    parts = [part for part in parts if b"\r\n--frontier" not in part]
    if parts:
        assert Upload(cut(form(*parts), chunk_size), MULTIPART).read() == tuple(parts)


@given(body=st.binary(max_size=300), chunk_size=st.integers(1, 50))
def test_any_bytes_as_multipart_are_read_or_refused(body, chunk_size) -> None:
    """A multipart body of arbitrary bytes never ends in anything but images or one of our errors."""
    opening = f"--{BOUNDARY}\r\n".encode()
    for content in (body, opening + body):
        with contextlib.suppress(PhiserveError):
            Upload(cut(content, chunk_size), MULTIPART).read()


def test_a_part_over_its_bound_leaves_its_neighbours_alone() -> None:
    """One image too large is an error in its own place; the others are read whole."""
    first, second, third = Upload(cut(form(b"a", b"x" * 101, b"c"), 64), MULTIPART).read()
    assert (first, third) == (b"a", b"c")
    assert isinstance(second, ImageTooLarge)
    assert "at most 100 bytes" in second.detail


def test_what_exceeds_a_parts_bound_is_not_kept() -> None:
    """A part of megabytes is read over without being held: memory stays near the bound, not near the body."""
    limits = BodyLimits(image_bytes_max=1000, body_bytes_max=20_000_000, images_max=1)
    chunk = b"x" * 100_000
    opening, closing = form(b"").split(b"\r\n\r\n")
    upload = Upload([opening + b"\r\n\r\n", *[chunk] * 100, closing], MULTIPART)
    tracemalloc.start()
    try:
        (result,) = upload.read(limits)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(result, ImageTooLarge)
    assert peak_bytes < 10 * len(chunk)


def test_too_many_parts_are_refused() -> None:
    """One part more than allowed refuses the request and names the bound."""
    assert len(Upload([form(b"a", b"b", b"c")], MULTIPART).read()) == 3
    with pytest.raises(InvalidArgument, match="more than 3 parts"):
        Upload([form(b"a", b"b", b"c", b"d")], MULTIPART).read()


def test_a_part_of_another_name_is_refused() -> None:
    """A part that is not an image, such as an option, is refused with where options go."""
    with pytest.raises(InvalidArgument, match=r"named 'budget_ms'; every part must be named 'image'.*query string"):
        Upload([form(b"5", name="budget_ms")], MULTIPART).read()


def test_a_part_without_a_disposition_is_refused() -> None:
    """A part that does not say its name is not taken for an image."""
    body = f"--{BOUNDARY}\r\nContent-Type: image/jpeg\r\n\r\nx\r\n--{BOUNDARY}--\r\n".encode()
    with pytest.raises(InvalidArgument, match="named ''"):
        Upload([body], MULTIPART).read()


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (form(b"a")[:-10], MULTIPART),
        (b"no multipart at all", MULTIPART),
        (b"", MULTIPART),
        (form(b"a"), {"content-type": "multipart/form-data"}),
        (form(b"a"), {"content-type": "multipart/form-data; boundary=" + "b" * 5000}),
    ],
    ids=["cut off", "not multipart", "empty", "no boundary", "endless boundary"],
)
def test_malformed_multipart_is_not_an_image(body, headers) -> None:
    """Multipart that cannot be parsed to its closing boundary is refused."""
    with pytest.raises(InvalidImage, match="multipart"):
        Upload([body], headers).read()


def test_multipart_without_a_part_is_refused() -> None:
    """A well-formed body that holds no part asks for nothing."""
    with pytest.raises((InvalidArgument, InvalidImage), match="multipart"):
        Upload([f"--{BOUNDARY}--\r\n".encode()], MULTIPART).read()


def test_a_caller_that_leaves_while_sending_is_noticed() -> None:
    """A body that ends by disconnect is never taken for a complete one."""
    with pytest.raises(ClientDisconnect):
        Upload([b"half a pict"], {}, ends=False).read()
