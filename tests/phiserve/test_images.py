"""Pictures in every form a caller has them: what is sent decodes to the same pixels."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from phiserve.images import encoded

PHOTOGRAPH = Path(__file__).parent.parent / "photographs" / "espresso.jpg"


def decoded(content: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(content))
    image.load()
    return image


def photograph(width: int, height: int) -> Image.Image:
    with Image.open(PHOTOGRAPH) as image:
        return image.convert("RGB").resize((width, height))


@pytest.mark.parametrize(
    "form",
    [str, Path, Path.read_bytes, lambda path: bytearray(path.read_bytes()), lambda path: io.BytesIO(path.read_bytes())],
    ids=["str", "path", "bytes", "bytearray", "file"],
)
def test_what_is_encoded_is_sent_as_it_is(form) -> None:
    """Paths, bytes and files reach the server byte for byte."""
    assert encoded(form(PHOTOGRAPH)) == PHOTOGRAPH.read_bytes()


def test_a_file_is_read_from_where_it_stands_and_left_open() -> None:
    """Whoever opened it closes it; a header before the picture may have been read."""
    file = io.BytesIO(b"header" + b"picture")
    file.seek(6)
    assert encoded(file) == b"picture"
    assert not file.closed


@pytest.mark.parametrize("size", [(224, 224), (300, 290)])
def test_small_arrays_lose_nothing(size) -> None:
    """Up to 256 KiB of pixels are sent as they are, without compression."""
    array = np.asarray(photograph(*size))
    sent = decoded(encoded(array))
    assert sent.format == "BMP"
    assert np.array_equal(np.asarray(sent), array)


def test_large_arrays_are_sent_as_fine_jpegs() -> None:
    """Over 256 KiB a tenth of the bytes is sent, at over 40 dB and with the colours at full resolution."""
    array = np.asarray(photograph(1280, 720))
    content = encoded(array)
    sent = decoded(content)
    assert sent.format == "JPEG"
    assert [component[1:3] for component in sent.layer] == [(1, 1)] * 3
    assert len(content) < array.nbytes / 8
    error = np.mean((np.asarray(sent).astype(float) - array) ** 2)
    assert 10 * np.log10(255**2 / error) > 40


@pytest.mark.parametrize("size", [(100, 80), (700, 500)])
def test_grey_arrays_stay_grey(size) -> None:
    """An array of height and width has one band on the wire too, a third of the bytes."""
    array = np.asarray(photograph(*size).convert("L"))
    sent = decoded(encoded(array))
    assert (sent.mode, sent.size) == ("L", size)
    assert np.abs(np.asarray(sent).astype(int) - array).max() < 16


def test_arrays_in_any_order_of_memory_are_the_same_picture() -> None:
    """Views with strides, mirrored or cut out, are read as what they show."""
    array = np.asarray(photograph(64, 48))
    assert np.array_equal(np.asarray(decoded(encoded(array[::-1, 10:50:2]))), array[::-1, 10:50:2])


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "1", "PA", "I;16"])
def test_pillow_images_keep_what_their_mode_means(mode) -> None:
    """Transparency, palettes and deep greys are the server's to interpret, as in files: they go losslessly."""
    picture = Image.new("I;16", (40, 30), 40_000) if mode == "I;16" else photograph(400, 300).convert(mode)
    sent = decoded(encoded(picture))
    assert sent.format == "PNG"
    if mode == "PA":
        picture = picture.convert("RGBA")
    assert sent.mode == picture.mode
    assert sent.tobytes() == picture.tobytes()


def test_a_transparent_colour_is_kept() -> None:
    """An RGB picture with one transparent colour is sent as PNG, which can say so."""
    picture = photograph(40, 30)
    picture.info["transparency"] = (1, 2, 3)
    assert decoded(encoded(picture)).info["transparency"] == (1, 2, 3)


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr", "F"])
def test_other_modes_become_rgb(mode) -> None:
    """What the web's formats do not have is converted."""
    assert decoded(encoded(photograph(40, 30).convert(mode))).mode == "RGB"


def test_a_photograph_is_sent_upright() -> None:
    """The orientation that a camera noted is applied: encoding pixels anew would lose it."""
    written, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    photograph(80, 40).save(written, "JPEG", exif=exif)
    sent = decoded(encoded(Image.open(written)))
    assert sent.size == (40, 80)
    assert not sent.getexif()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8, 3), np.float32),
        np.zeros((3, 8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((0, 8), np.uint8),
        np.zeros(8, np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_that_are_no_picture_are_refused(array) -> None:
    """The error shows what came and what would have worked."""
    with pytest.raises(ValueError, match=r"uint8 and shape \(height, width, 3\)"):
        encoded(array)


@pytest.mark.parametrize(
    "thing", [None, 7, ["photo.jpg"], io.StringIO("text")], ids=["None", "a number", "a list", "a text file"]
)
def test_what_is_no_image_is_refused(thing) -> None:
    """Neither numbers nor lists nor text files are sent."""
    with pytest.raises(TypeError):
        encoded(thing)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path) -> None:
    """With its name, as `open` has it."""
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        encoded(tmp_path / "none.jpg")


def test_importing_phiserve_loads_no_library_of_a_wire_or_a_picture() -> None:
    """`import phiserve`, a client over HTTP and bytes to send need neither Pillow nor numpy nor gRPC nor models."""
    program = (
        "import sys, phiserve\n"
        "heavy = {'onnxruntime', 'onnx', 'PIL', 'numpy', 'grpc', 'google', 'fastapi', 'uvicorn', 'pydantic'}\n"
        "assert not (heavy | {'httpx'}) & sys.modules.keys()\n"
        "with phiserve.Client('http://127.0.0.1:9') as client:\n"
        "    assert [type(found).__name__ for found in client.classify_many([b'picture'])] == ['ConnectionFailed']\n"
        "print(sorted(heavy & sys.modules.keys()))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "[]\n"), ended.stderr
