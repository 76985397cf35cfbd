"""The bound of a server: decode, crop, resize and run in a bare loop, with nothing between one image and the next.

Decodes at full size, as a script with Pillow and ONNX Runtime does. Each loop is a process of its own, so that several
share nothing but the machine. Knows no server.
"""

from __future__ import annotations

import io
import itertools
import multiprocessing
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Self

import numpy as np
from PIL import Image

from model_store.catalogue import Catalogue
from service.runtime.preprocess import crop_box
from service.runtime.providers import SessionOptions
from service.runtime.session import Session, Top

TOP_K = 5


@dataclass(frozen=True, slots=True)
class Looped:
    """What one loop did: images, the seconds that took, and the median milliseconds of one."""

    images: int
    seconds: float
    p50_ms: float

    @property
    def per_s(self) -> float:
        """Images a second."""
        return self.images / self.seconds


class BareLoop:
    """A process that has loaded one variant and loops over photographs whenever it is told to."""

    def __init__(self, store: Path, variant: str, threads: int, photographs: Sequence[bytes]) -> None:
        """Start it, and return once it has loaded and warmed its session."""
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        arguments = (theirs, store, variant, threads, tuple(photographs))
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        self._pipe.recv()

    @property
    def pid(self) -> int:
        """The process that loops."""
        assert self._process.pid is not None, "it was started"
        return self._process.pid

    def begin(self, duration_s: float) -> None:
        """Loop for `duration_s` from now; `result` waits for the end."""
        self._pipe.send(duration_s)

    def result(self) -> Looped:
        """What came of the last `begin`."""
        found = self._pipe.recv()
        assert isinstance(found, Looped)
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipe.send(None)
        self._process.join(10)
        self._pipe.close()


def _serve(pipe: Connection, store: Path, variant: str, threads: int, photographs: tuple[bytes, ...]) -> None:
    entry = Catalogue.open(store, only=[variant]).entries[variant]
    session = Session(entry.read_model(), entry.variant, SessionOptions(threads, 1))
    for photograph in photographs:
        classify(session, photograph)
    pipe.send("ready")
    while (duration_s := pipe.recv()) is not None:
        pipe.send(loop(session, photographs, duration_s))


def loop(session: Session, photographs: Sequence[bytes], duration_s: float) -> Looped:
    """Classify one photograph after the other, in turn, until `duration_s` have passed."""
    took_ns: list[int] = []
    started_ns = now_ns = time.perf_counter_ns()
    for photograph in itertools.cycle(photographs):
        classify(session, photograph)
        before_ns, now_ns = now_ns, time.perf_counter_ns()
        took_ns.append(now_ns - before_ns)
        if now_ns - started_ns >= duration_s * 1e9:
            break
    return Looped(len(took_ns), (now_ns - started_ns) / 1e9, statistics.median(took_ns) / 1e6)


def classify(session: Session, photograph: bytes) -> Top:
    """The five likeliest classes: Pillow at full size, the served crop and resize, one run."""
    variant = session.variant
    side = variant.resolution
    picture = Image.open(io.BytesIO(photograph)).convert("RGB")
    box = crop_box(picture.width, picture.height, variant.crop_fraction)
    resampling = Image.Resampling[variant.interpolation.upper()]
    pixels = np.asarray(picture.crop(box).resize((side, side), resampling))
    return session.classify(pixels[np.newaxis], TOP_K)[1][0]
