"""The blocking client. Threads may share one: it keeps its connections, and each call has its own state.

It translates nothing and decides no retry: `transports.py` speaks to the server, `retry.py` says what to do next.
"""

from __future__ import annotations

import os
import random
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Self, TypeVar, Unpack

from phiserve.address import DEFAULT_URL, TlsFiles
from phiserve.call_options import CallOptions, OptionArguments
from phiserve.errors import PhiserveError, ServerError
from phiserve.images import ImageLike, encoded
from phiserve.results import Classification, Variant
from phiserve.retry import NS_PER_S, READY_PATIENCE, UNTIL_READY, Call, Pause, Retries, RetryPolicy, Send, patience
from phiserve.transports import open_transport

T = TypeVar("T")

CONCURRENCY_MAX = 256
READ_AHEAD = 2
"""Images in work or waiting to be handed out in order, as a multiple of the concurrency: a slow one at the head should
not leave the others idle."""


class Client:
    """Classifies images on one server, over HTTP or gRPC by the URL's scheme.

        with Client("http://127.0.0.1:8000") as client:
            print(client.classify("photo.jpg", budget_ms=50).best.label)

    `grace_s` is how long beyond its budget a call waits for its answer, which has to travel; `patience_s` how long a
    call without a budget, or one that may be late, is waited for. `ca_cert`, `client_cert` and `client_key` are PEM
    files for `https://` and `grpcs://`: whom to trust instead of the well-known authorities, and who the client is.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        grace_s: float = 10.0,
        patience_s: float = 60.0,
        retry: RetryPolicy | None = None,
        ca_cert: str | Path | None = None,
        client_cert: str | Path | None = None,
        client_key: str | Path | None = None,
    ) -> None:
        """Connects to nothing yet.

        Raises:
            InvalidUrl: the URL is not a server's address.
            ValueError: a certificate without its key, or a time that is none.
            OSError: a certificate cannot be read.
        """
        self._url = url
        self._retries = Retries(retry or RetryPolicy(), patience(grace_s, patience_s), random.random)
        self._transport = open_transport(url, TlsFiles(ca_cert, client_cert, client_key))

    def classify(self, image: ImageLike, **options: Unpack[OptionArguments]) -> Classification:
        """What `image` shows, by the most accurate variant that makes the budget. See `OptionArguments`.

        `image`: a path, bytes, a binary file, a Pillow image, or a uint8 array (see `images.encoded`). What failed
        before there was an answer is sent again if the budget lasts for it (see `RetryPolicy`); each attempt names what
        is left of the budget.

        Raises:
            ServerError: what the server says instead (see `phiserve.errors`), DeadlineExceeded for instance.
            TransportError: no whole answer came.
            OSError: the image's file cannot be read.
            TypeError, ValueError: this is no image.
        """
        return self._classify(image, CallOptions(**options))

    def classify_many(
        self, images: Iterable[ImageLike], *, concurrency: int = 8, **options: Unpack[OptionArguments]
    ) -> Generator[Classification | PhiserveError | OSError]:
        """Each image's classification, or its error in the place of one, in the order of `images`.

        At most `concurrency` (1..256) are in work at once, and `images` is read no further ahead than twice that. Each
        image has the whole budget, from when its turn comes. What is no image at all (TypeError, ValueError) is raised.
        Closing the iterator starts nothing more and waits for what is in work.
        """
        check_many(images, concurrency)
        return self._classify_many(images, concurrency, CallOptions(**options))

    def stream(
        self, frames: Iterable[ImageLike], **options: Unpack[OptionArguments]
    ) -> Generator[Classification | ServerError]:
        """Each frame's classification, or its error in the place of one, in the order of `frames`, over one stream.

        For `grpc://` and `grpcs://`. Frames are sent as `frames` gives them, which is read in another thread, each with
        the whole budget from when the server has it. Frames that newer ones overtake come back as StaleFrame. The
        server takes a bounded number that is not answered yet; beyond it sending waits, and `frames` is not read.
        Nothing is sent again. Closing the iterator cancels what is on its way.

        Raises:
            InvalidUrl: the client speaks HTTP.
            TransportError: the stream broke, or an answer did not come within budget and grace.
            Exception: what `frames` raises, and what a frame raises that is no image, after the outcomes before it.
        """
        asked = CallOptions(**options)
        return self._transport.stream(map(encoded, frames), asked, self._begin(asked).silence_ns)

    def variants(self) -> tuple[Variant, ...]:
        """Every variant the server has, most accurate first. Raises as `classify`."""
        return self._perform(self._retries.begin(time.monotonic_ns()), self._transport.variants)

    def wait_until_ready(self, timeout_s: float = 60.0) -> None:
        """Return as soon as the server takes requests.

        Raises:
            NotReady, ConnectionFailed, TimedOut: why it did not within `timeout_s`, or a second more.
            PhiserveError: what waiting cannot mend, at once; a certificate that is not trusted, for instance.
        """
        waiting = Retries(UNTIL_READY, READY_PATIENCE, random.random)
        call = waiting.begin(time.monotonic_ns(), budget_ns=patience(0.0, timeout_s).total_ns)
        self._perform(call, self._transport.check_ready)

    def close(self) -> None:
        """Close every connection. No call may be in progress in another thread."""
        self._transport.close()

    def __repr__(self) -> str:
        return f"Client({self._url!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _classify(self, image: ImageLike, options: CallOptions) -> Classification:
        content = encoded(image)
        return self._perform(self._begin(options), lambda send: self._transport.classify(content, options, send))

    def _begin(self, options: CallOptions) -> Call:
        return self._retries.begin(
            time.monotonic_ns(), budget_ns=options.budget_ns, is_late_allowed=options.is_late_allowed
        )

    def _perform(self, call: Call, attempt: Callable[[Send], T]) -> T:
        while True:
            action = call.next(time.monotonic_ns())
            if isinstance(action, Pause):
                time.sleep(action.duration_ns / NS_PER_S)
                continue
            try:
                result = attempt(action)
            except PhiserveError as error:
                call.failed(error)
            else:
                call.answered()
                return result

    def _classify_many(
        self, images: Iterable[ImageLike], concurrency: int, options: CallOptions
    ) -> Generator[Classification | PhiserveError | OSError]:
        def result_of(image: ImageLike) -> Classification | PhiserveError | OSError:
            try:
                return self._classify(image, options)
            except (PhiserveError, OSError) as error:
                return error

        pool = ThreadPoolExecutor(concurrency, thread_name_prefix="phiserve-client")
        begun: deque[Future[Classification | PhiserveError | OSError]] = deque()
        try:
            for image in images:
                begun.append(pool.submit(result_of, image))
                if len(begun) == READ_AHEAD * concurrency:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            # Nothing in work can be interrupted, and what goes on unseen would use the client after it was closed.
            pool.shutdown(wait=True, cancel_futures=True)


def check_many(images: object, concurrency: int) -> None:
    """What `classify_many` checks before it begins.

    Raises:
        TypeError: one image instead of several.
        ValueError: a concurrency not from 1 to 256.
    """
    if isinstance(images, str | bytes | bytearray | memoryview | os.PathLike):
        raise TypeError(f"classify_many takes several images, got one {type(images).__name__}; put it into a list")
    if not 1 <= concurrency <= CONCURRENCY_MAX:
        raise ValueError(f"concurrency must be from 1 to {CONCURRENCY_MAX}, got {concurrency}")
