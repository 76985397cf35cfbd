"""gRPC load by `h2load`, which is to HTTP/2 what `wrk` is to HTTP/1.1: its own work shares the cores unnoticed.

A client in Python took a core's millisecond for each call, as much as gRPC costs the server, and the server was short
of it. Unary calls on one connection, closed loop, so many under way at a time. Loopback only.
"""

from __future__ import annotations

import re
import shutil
import statistics
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.http_connection import loopback_address

_WARM_UP_MS = 200
_US_PER_MS = 1000
_MS_PER_S = 1000


class H2LoadError(Exception):
    """No `h2load`, or answers that were no successes."""


@dataclass(frozen=True, slots=True)
class Load:
    """Answers a second, and the median of their milliseconds."""

    per_s: float
    p50_ms: float


@dataclass(frozen=True, slots=True)
class Turn:
    """What came of one message sent over and over: answers a second, and what each took, in milliseconds."""

    per_s: float
    took_ms: Sequence[float]


def call(grpc_url: str, path: str, messages: Sequence[bytes], *, concurrency: int, duration_s: float) -> Load:
    """Call the method at `path` with each of `messages`, serialized, for an equal part of `duration_s`.

    h2load sends one message over and over. What is told is what equally many of each would have given.

    Raises:
        H2LoadError: it is not installed, or a stream was not answered. The status of a call, which is in the trailers,
            it does not read: ask the server whether calls failed.
        ValueError: `grpc_url` is not on this machine.
    """
    url = "http" + grpc_url.removeprefix("grpc")
    loopback_address(url)
    if (h2load := shutil.which("h2load")) is None:
        raise H2LoadError(
            "this benchmark calls with h2load; install it, for instance with `apt install nghttp2-client`"
        )
    turns = []
    with tempfile.TemporaryDirectory() as folder:
        frame, log = Path(folder, "frame"), Path(folder, "log")
        for message in messages:
            frame.write_bytes(struct.pack(">BI", 0, len(message)) + message)  # not compressed, then its length
            log.unlink(missing_ok=True)
            command = [h2load, "-t1", "-c1", f"-m{concurrency}", f"-d{frame}", f"--log-file={log}"]
            command += [f"-D{round(duration_s / len(messages) * _MS_PER_S)}ms", f"--warm-up-time={_WARM_UP_MS}ms"]
            command += ["-H", "content-type: application/grpc", "-H", "te: trailers", url + path]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise H2LoadError(f"h2load ended with code {done.returncode}: {done.stdout}{done.stderr}")
            turns.append(parse(done.stdout, log.read_text()))
    return mixed(turns)


def parse(printed: str, log: str) -> Turn:
    """Read what h2load prints, and its log: start, HTTP status and microseconds of each stream.

    Raises:
        H2LoadError: some streams were no successes, or none was answered, or the text is not h2load's.
    """
    rate = re.search(r"^finished in .*, ([\d.]+) req/s", printed, re.MULTILINE)
    counts = re.search(r"^requests: .* (\d+) failed, (\d+) errored, (\d+) timeout", printed, re.MULTILINE)
    if rate is None or counts is None:
        raise H2LoadError(f"not what h2load prints: {printed!r}")
    streams = [line.split("\t") for line in log.splitlines()]
    if any(map(int, counts.groups())) or not streams or any(status != "200" for _, status, _ in streams):
        raise H2LoadError(f"not every call was answered: {printed}")
    return Turn(float(rate[1]), [int(took_us) / _US_PER_MS for *_, took_us in streams])


def mixed(turns: Sequence[Turn]) -> Load:
    """What equally many calls of each turn would have given."""
    count = min(len(turn.took_ms) for turn in turns)
    took_ms = [took for turn in turns for took in turn.took_ms[:count]]
    return Load(statistics.harmonic_mean([turn.per_s for turn in turns]), statistics.median(took_ms))
