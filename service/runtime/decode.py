"""Encoded bytes to upright RGB pixels, in a bounded pool of threads: JPEGs by `jpeg.py`, everything else by Pillow.

Decodes no more than the network can see: JPEGs are scaled down inside the decoder (DCT scaling), everything
else right after it, and far panoramas lose their ends, which no centre crop reaches. So a decoded picture has
a bound that depends on the network and not on the sender. Never crops or resizes to a network's input;
`preprocess.py` does, once the variant is known.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import queue
import threading

import numpy as np
from PIL import ExifTags, Image

from service.core.clock import Clock, MonotonicClock
from service.core.request import PIXELS_FORMAT, ImageHeader, Picture, RawPixels
from service.errors import ImageTooLarge, InvalidImage, NotReady, Overloaded, PhiserveError, UnsupportedMediaType
from service.runtime import image_header, jpeg
from service.runtime.rgb_image import Pixels, RgbImage, pixels_of

logger = logging.getLogger(__name__)

_CLOSED = "the server is shutting down; send the request to another replica"

SHRINK_GAP = 2
"""Whole-number shrinking after the decoder keeps the shorter side at least this many times what is asked for:
a box filter that close to the final size would blur what the bicubic resize then reads."""

ASPECT_MAX = 2
"""A decoded picture is at most this many times longer than its shorter side."""

# EXIF orientation 2..8 (CIPA DC-008, section 4.6.4) to what turns the stored picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE = (255, 255, 255, 255)


def decode_rgb(data: bytes, shorter_side_px: int, pixels_max: int) -> RgbImage:
    """Decode `data` now, on this thread, so that its shorter side keeps at least `shorter_side_px` pixels.

    A smaller picture stays as it is. The first frame of an animation is taken, EXIF orientation is applied, and
    transparency is laid over white: dropping the alpha channel, as `convert("RGB")` does, would show whatever
    colour was left under the transparent pixels, mostly black, which no viewer of the picture sees.

    Raises:
        InvalidImage: not a picture, cut off, or corrupt.
        UnsupportedMediaType: of a format or colour model that is not served.
        ImageTooLarge: more than `pixels_max` pixels, or more memory than there is.
    """
    try:
        by_codec = jpeg.decode(data, shorter_side_px, pixels_max)
        if by_codec is not None:
            return RgbImage(_fit(*by_codec, shorter_side_px))
        return RgbImage(_by_pillow(data, shorter_side_px, pixels_max))
    except MemoryError:
        raise ImageTooLarge("decoding the picture needs more memory than the server has; scale it down") from None


def take_over(raw: RawPixels, shorter_side_px: int) -> RgbImage:
    """Pixels that their caller decoded, scaled and cut as `decode_rgb` would.

    One of a network's size keeps it: scaling begins at four times `shorter_side_px`, which no network's input has.

    Raises:
        ImageTooLarge: more memory than there is.
    """
    pixels = np.frombuffer(raw.data, np.uint8).reshape(raw.height, raw.width, 3)
    try:
        return RgbImage(_fit(pixels, 1, shorter_side_px), may_be_cropped=True)
    except MemoryError:
        raise ImageTooLarge("holding the picture needs more memory than the server has; scale it down") from None


def _fit(pixels: Pixels, orientation: int, shorter_side_px: int) -> Pixels:
    """`pixels` within bounds and upright; themselves, if they are."""
    shorter, longer = sorted(pixels.shape[:2])
    is_bounded = shorter < 2 * SHRINK_GAP * shorter_side_px and longer <= ASPECT_MAX * shorter
    if is_bounded and orientation not in _UPRIGHT:
        return pixels
    return _fitted(Image.fromarray(pixels), orientation, shorter_side_px)


def _by_pillow(data: bytes, shorter_side_px: int, pixels_max: int) -> Pixels:
    picture = image_header.open_picture(data)
    header = image_header.header_of(picture, pixels_max)
    try:
        # Only the JPEG decoder acts on this; it picks the strongest of 1/1 … 1/8 that leaves both sides long enough.
        picture.draft(None, (shorter_side_px, shorter_side_px))
        picture.load()
        return _fitted(_to_rgb(picture), _orientation(picture), shorter_side_px)
    except (PhiserveError, MemoryError):
        raise
    except Image.DecompressionBombError:
        raise image_header.too_many_pixels("too many pixels", pixels_max) from None
    except Exception as error:  # the seam: Pillow's codecs raise a dozen types on hostile bytes
        raise _corrupt(header.format, error) from error


def _fitted(rgb: Image.Image, orientation: int, shorter_side_px: int) -> Pixels:
    rgb = _cut_ends(_shrink(rgb, shorter_side_px))
    return pixels_of(rgb.transpose(_UPRIGHT[orientation]) if orientation in _UPRIGHT else rgb)


def _orientation(picture: Image.Image) -> int:
    """EXIF orientation, 1 (upright) where there is none or the EXIF block is malformed."""
    try:
        value = picture.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001  a broken tag beside good pixels costs the caller nothing
        return 1
    return value if isinstance(value, int) else 1


def _to_rgb(picture: Image.Image) -> Image.Image:
    """Any colour model Pillow decodes to, as 8-bit RGB. CMYK is converted without a colour profile."""
    mode = picture.mode
    if mode == "RGB" and "transparency" not in picture.info:
        return picture
    if mode == "I" or mode.startswith("I;16"):
        return _from_16_bit(picture)
    if mode in ("F", "LAB"):
        raise UnsupportedMediaType(f"pictures of colour model {mode} are not served; convert it to 8-bit RGB")
    if "transparency" in picture.info or mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        layered = picture.convert("RGBA") if mode != "La" else picture.convert("LA").convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layered.size, _WHITE), layered).convert("RGB")
    return picture.convert("RGB")


def _from_16_bit(picture: Image.Image) -> Image.Image:
    """16-bit grey to RGB by its high byte; `convert` would clip at 255 and show white."""
    samples = np.asarray(picture).astype(np.int64).clip(0, 0xFFFF)
    return Image.fromarray((samples >> 8).astype(np.uint8), "L").convert("RGB")


def _shrink(rgb: Image.Image, shorter_side_px: int) -> Image.Image:
    """Average whole blocks of pixels while that leaves `SHRINK_GAP` times the asked shorter side."""
    factor = min(rgb.size) // (SHRINK_GAP * shorter_side_px)
    return rgb.reduce(factor) if factor > 1 else rgb


def _cut_ends(rgb: Image.Image) -> Image.Image:
    """Cut both ends of a picture longer than `ASPECT_MAX` times its shorter side, keeping its centre."""
    shorter = min(rgb.size)
    cut_x = max(0, (rgb.width - ASPECT_MAX * shorter + 1) // 2)
    cut_y = max(0, (rgb.height - ASPECT_MAX * shorter + 1) // 2)
    if not cut_x and not cut_y:
        return rgb
    return rgb.crop((cut_x, cut_y, rgb.width - cut_x, rgb.height - cut_y))


def _corrupt(format_name: str, error: Exception) -> InvalidImage:
    if "truncated" in str(error).lower():
        return InvalidImage(f"the {format_name} data ends before the picture does; send the whole file")
    return InvalidImage(f"the {format_name} data is corrupt and cannot be decoded; re-encode the picture")


class _Wanted:
    """A picture that its caller waits for; `begun` is guarded by the decoder's lock."""

    __slots__ = ("begun", "image", "loop", "result", "shorter_side_px")

    def __init__(self, image: Picture, shorter_side_px: int, loop: asyncio.AbstractEventLoop) -> None:
        self.image = image
        self.shorter_side_px = shorter_side_px
        self.begun = False
        self.loop = loop
        self.result: asyncio.Future[RgbImage] = loop.create_future()

    def tell(self, decoded: RgbImage | None, failure: BaseException | None) -> None:
        """Hand over either, from any thread."""
        try:
            self.loop.call_soon_threadsafe(self._settle, decoded, failure)
        except RuntimeError:
            logger.debug("a picture was decoded for an event loop that is gone")

    def _settle(self, decoded: RgbImage | None, failure: BaseException | None) -> None:
        if self.result.done():
            return  # its caller left
        if decoded is not None:
            self.result.set_result(decoded)
        else:
            assert failure is not None, "a picture is decoded or it is not"
            self.result.set_exception(failure)


class PictureDecoder:
    """`core.ports.Decoder` on threads, the earliest deadline first. `close` it when no decode is awaited any more."""

    def __init__(self, threads: int, queue_size_max: int, pixels_max: int, *, clock: Clock | None = None) -> None:
        """At most `queue_size_max` pictures wait or are being decoded, on `threads` threads.

        Raises:
            ValueError: a bound that is not positive, or `pixels_max` above what Pillow itself refuses.
        """
        if threads < 1 or queue_size_max < 1:
            raise ValueError(f"threads and queue_size_max must be 1 or more, got {threads} and {queue_size_max}")
        if not 1 <= pixels_max <= image_header.PIXELS_MAX_LIMIT:
            raise ValueError(f"pixels_max must be 1 to {image_header.PIXELS_MAX_LIMIT}, got {pixels_max}")
        image_header.silence_pillow_warnings()
        self.threads = threads
        self._queue_size_max = queue_size_max
        self._pixels_max = pixels_max
        self._clock = clock or MonotonicClock()
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, int, _Wanted]] = []
        self._sequence = itertools.count()
        self._pending = 0
        self._recent_ns = 0
        self._closed = False
        # One for each picture that waits; not an executor, whose futures cost more than the rest of a hand-over.
        self._tickets: queue.SimpleQueue[_Wanted | None] = queue.SimpleQueue()
        self._pool = [threading.Thread(target=self._work, name=f"decode_{n}", daemon=True) for n in range(threads)]
        for thread in self._pool:
            thread.start()

    @property
    def pending(self) -> int:
        """Pictures that wait for a thread or are on one."""
        return self._pending

    def probe(self, image: Picture) -> ImageHeader:
        """See `core.ports.Decoder.probe`."""
        if isinstance(image, RawPixels):
            return image_header.bounded(ImageHeader(PIXELS_FORMAT, image.width, image.height), self._pixels_max)
        return image_header.read_header(image, self._pixels_max)

    async def decode(self, image: Picture, shorter_side_px: int, deadline_ns: int) -> RgbImage:
        """See `core.ports.Decoder.decode`. Cancelling the caller frees its place, if it was not begun.

        Raises:
            InvalidImage: cut off or corrupt.
            UnsupportedMediaType: of a format or colour model that is not served.
            ImageTooLarge: more pixels than the server takes.
            Overloaded: `queue_size_max` pictures are pending.
            NotReady: the decoder was closed.
        """
        wanted = self._submit(image, shorter_side_px, deadline_ns)
        try:
            return await wanted.result
        except asyncio.CancelledError:
            with self._lock:
                if not wanted.begun:
                    self._drop(wanted)
            raise

    def close(self) -> None:
        """Drop what waits, wait for what runs, end the threads."""
        with self._lock:
            self._closed = True
            for *_, wanted in self._waiting:
                if not wanted.begun:
                    self._drop(wanted)
                    wanted.tell(None, NotReady(_CLOSED))
            self._waiting.clear()
        for _ in self._pool:
            self._tickets.put(None)
        for thread in self._pool:
            thread.join()

    def _submit(self, image: Picture, shorter_side_px: int, deadline_ns: int) -> _Wanted:
        wanted = _Wanted(image, shorter_side_px, asyncio.get_running_loop())
        with self._lock:
            if self._closed:
                raise NotReady(_CLOSED)
            if self._pending >= self._queue_size_max:
                raise Overloaded(
                    f"{self._pending} pictures are being decoded, which is the bound; retry later or scale out",
                    retry_after_ns=self._retry_after_ns(),
                )
            self._pending += 1
            heapq.heappush(self._waiting, (deadline_ns, next(self._sequence), wanted))
        # Whichever thread is free takes what is due first by then, not what was submitted with this call.
        self._tickets.put(wanted)
        return wanted

    def _drop(self, wanted: _Wanted) -> None:
        """Give its place away, under the lock; the thread that finds it passes on."""
        wanted.begun = True
        wanted.image = b""
        self._pending -= 1

    def _work(self) -> None:
        while self._tickets.get() is not None:
            with self._lock:
                if not self._waiting:
                    continue  # closed meanwhile
                wanted = heapq.heappop(self._waiting)[2]
                if wanted.begun:
                    continue
                wanted.begun = True
            self._decode(wanted)
            del wanted  # or the last picture would live as long as the thread is idle

    def _decode(self, wanted: _Wanted) -> None:
        decoded: RgbImage | None = None
        failure: BaseException | None = None
        try:
            decoded = self._timed_decode(wanted.image, wanted.shorter_side_px)
        except BaseException as error:  # noqa: BLE001  whatever it is belongs to the one who waits
            failure = error
        with self._lock:
            self._pending -= 1
        wanted.tell(decoded, failure)

    def _timed_decode(self, image: Picture, shorter_side_px: int) -> RgbImage:
        started_ns = self._clock.now_ns()
        try:
            if isinstance(image, RawPixels):
                return take_over(image, shorter_side_px)
            return decode_rgb(image, shorter_side_px, self._pixels_max)
        finally:
            took_ns = self._clock.now_ns() - started_ns
            with self._lock:
                # Exponential average over about the last eight pictures, starting from the first one.
                self._recent_ns += (took_ns - self._recent_ns) // 8 if self._recent_ns else took_ns

    def _retry_after_ns(self) -> int:
        """When the pending pictures should be done, by how long recent ones took; a guess before the first."""
        per_picture_ns = self._recent_ns or 5_000_000
        return per_picture_ns * -(-self._pending // self.threads)
