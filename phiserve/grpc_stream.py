"""Frames over one gRPC stream: sent as they come, answered in their order, and never waited for without a bound.

A stream is not tried again: frames that were on their way when it broke are gone, as frames are. It reads no message's
meaning (`grpc_wire.py` does).
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from typing import Any

import grpc

from phiserve import grpc_wire
from phiserve.call_options import CallOptions
from phiserve.errors import ConnectionFailed, PhiserveError, ServerError, TimedOut
from phiserve.results import Classification
from phiserve.retry import NS_PER_S
from phiserve.v1 import classifier_pb2

Outcome = Classification | ServerError


class _Frames:
    """What both kinds of stream keep of the frames on their way: how many, and why there are no more."""

    def __init__(self, options: CallOptions) -> None:
        self._options = options
        self.sent = 0
        self.answered = 0
        self.failure: BaseException | None = None

    def request(self, image: bytes) -> classifier_pb2.ClassifyStreamRequest:
        """The next frame as it is sent, with its whole budget."""
        request = grpc_wire.stream_request(self.sent, image, self._options)
        self.sent += 1
        return request

    def outcome(self, response: classifier_pb2.ClassifyStreamResponse) -> Outcome:
        """The next frame's outcome, which `response` must be."""
        found = grpc_wire.stream_outcome(response, self.answered)
        self.answered += 1
        return found

    def check_complete(self) -> None:
        """The stream has ended well: raise why there were no more frames, or that the server left some unanswered."""
        if self.failure is not None:
            raise self.failure
        if self.answered < self.sent:
            raise ConnectionFailed(
                f"the server ended the stream with {self.sent - self.answered} frames unanswered; begin another one"
            )


class _Watch:
    """Cancels a blocking stream on which an awaited answer does not come; its thread lives as long as the stream.

    Time counts while the caller waits for an answer and a frame is on its way: a caller that takes its time, or a
    camera that does, is no silence of the server.
    """

    def __init__(self, limit_ns: int) -> None:
        self._limit_ns = limit_ns
        self._changed = threading.Condition()
        self._on_way, self._is_read, self._is_over = 0, False, False
        self._since_ns = 0
        self.has_fired = False

    def start(self, call: Any) -> None:
        """Watch `call` from now on."""
        threading.Thread(target=self._run, args=(call,), name="phiserve-stream", daemon=True).start()

    def note(self, *, on_way: int = 0, is_read: bool | None = None, is_over: bool = False) -> None:
        """More or fewer frames are on their way, or the caller waits or does not, or the stream has ended."""
        with self._changed:
            self._on_way += on_way
            self._is_read = self._is_read if is_read is None else is_read
            self._is_over = self._is_over or is_over
            if is_read or (on_way and self._on_way == 1):
                self._since_ns = time.monotonic_ns()
            self._changed.notify()

    def _run(self, call: Any) -> None:
        with self._changed:
            while not self._is_over:
                left_ns = self._since_ns + self._limit_ns - time.monotonic_ns()
                if not (self._on_way and self._is_read):
                    self._changed.wait()
                elif left_ns > 0:
                    self._changed.wait(left_ns / NS_PER_S)
                else:
                    self.has_fired = True
                    break
        if self.has_fired:
            call.cancel()


def stream(method: Any, images: Iterable[bytes], options: CallOptions, silence_ns: int) -> Generator[Outcome]:
    """Each frame's outcome in order; `method` is the stub's. gRPC takes frames from `images` in a thread of its own.

    Raises:
        TransportError: the stream broke, or an answer was `silence_ns` late.
        ServerError: what the server says of the stream as a whole.
        whatever `images` raises, after the outcomes of the frames before.
    """
    frames, watch = _Frames(options), _Watch(silence_ns)

    def requests() -> Iterator[classifier_pb2.ClassifyStreamRequest]:
        try:
            for image in images:
                watch.note(on_way=1)
                yield frames.request(image)
        except Exception as failure:  # noqa: BLE001 - gRPC would only log it; the caller is told when its turn comes
            frames.failure = failure

    call = method(requests())
    watch.start(call)
    try:
        while True:
            watch.note(is_read=True)
            response = next(call, None)
            watch.note(on_way=0 if response is None else -1, is_read=False)
            if response is None:
                break
            yield frames.outcome(response)
        frames.check_complete()
    except grpc.RpcError as error:
        raise _timed_out(silence_ns) if watch.has_fired else rpc_error(error) from error
    finally:
        watch.note(is_over=True)
        call.cancel()  # what is done is not touched by it


async def async_stream(
    method: Any, images: AsyncIterable[bytes], options: CallOptions, silence_ns: int
) -> AsyncGenerator[Outcome]:
    """As `stream`, on asyncio."""
    frames = _Frames(options)
    loop, silence_s = asyncio.get_running_loop(), silence_ns / NS_PER_S
    reading: asyncio.Timeout | None = None

    async def requests() -> AsyncIterator[classifier_pb2.ClassifyStreamRequest]:
        try:
            async for image in images:
                request = frames.request(image)
                if reading is not None and reading.when() is None:
                    reading.reschedule(loop.time() + silence_s)
                yield request
        except Exception as failure:  # noqa: BLE001 - gRPC would only log it; the caller is told when its turn comes
            frames.failure = failure

    call = method(requests())
    # Iterated, not asked by `read`: once a frame could not be sent, `read` tells that and not what had come before.
    responses = aiter(call)
    try:
        while True:
            is_awaited = frames.answered < frames.sent
            try:
                async with asyncio.timeout(silence_s if is_awaited else None) as reading:
                    response = await anext(responses, None)
            finally:
                reading = None
            if response is None:
                break
            yield frames.outcome(response)
        frames.check_complete()
    except TimeoutError as error:
        raise _timed_out(silence_ns) from error
    except grpc.aio.AioRpcError as error:
        raise rpc_error(error) from error
    finally:
        call.cancel()


def _timed_out(silence_ns: int) -> TimedOut:
    return TimedOut(f"the stream was silent for {silence_ns / NS_PER_S:.3g} s with frames on their way; is it served?")


def rpc_error(error: Any) -> PhiserveError:
    """What gRPC's exception stands for."""
    return grpc_wire.call_error(error.code().name, error.details() or "", error.trailing_metadata() or ())
