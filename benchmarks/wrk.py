"""HTTP load by `wrk`, whose own work per request is small enough to share two cores with what it measures.

Posts photographs in turn over kept-alive connections, closed loop. Loopback only. Of a short load the plain rate is too
low, by what a server has under way as it ends: half a batch, or what it has decoded ahead. So there is a steady rate
too, from one answer to another.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from benchmarks.http_connection import loopback_address

_SCRIPT = """
local ffi = require("ffi")
ffi.cdef("typedef struct { long s, ns; } instant; int clock_gettime(int, instant *);")
local MONOTONIC, now = 1, ffi.new("instant")
local paths, headers, lead, messages, at = {%s}, {%s}, %d, {}, 0
local threads = {}
answered, began_s, ended_s = 0, 0, 0 -- global: read from another state as the load has ended
function setup(thread)
  table.insert(threads, thread)
end
function init()
  for index, path in ipairs(paths) do
    local file = assert(io.open(path, "rb"))
    messages[index] = wrk.format("POST", wrk.path, headers, file:read("*a"))
    file:close()
  end
end
function request()
  at = at %% #messages + 1
  return messages[at]
end
function response()
  ffi.C.clock_gettime(MONOTONIC, now)
  ended_s = tonumber(now.s) + 1e-9 * tonumber(now.ns)
  answered = answered + 1
  if answered == lead then began_s = ended_s end
end
function done()
  local thread = threads[1]
  local counted, took_s = thread:get("answered") - lead, thread:get("ended_s") - thread:get("began_s")
  io.write(string.format("Answers after the first %%d: %%d in %%.6f s\\n", lead, math.max(counted, 0), took_s))
end
"""

JPEG: Mapping[str, str] = MappingProxyType({"Content-Type": "image/jpeg"})

_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 60e3}


class WrkError(Exception):
    """No `wrk`, or answers that were no successes."""


@dataclass(frozen=True, slots=True)
class Load:
    """What `wrk` measured: answers a second, and latencies in milliseconds.

    `per_s` is of the whole load, from its first request on; `steady_per_s` from when each connection could have had its
    first answer to the last answer, and as `per_s` where that is no time.
    """

    per_s: float
    p50_ms: float
    p99_ms: float
    steady_per_s: float


def post(
    url: str, bodies: Sequence[Path], *, concurrency: int, duration_s: int, headers: Mapping[str, str] = JPEG
) -> Load:
    """Load `url` from `concurrency` connections with the contents of `bodies`, in turn.

    Raises:
        WrkError: it is not installed, or any request was not answered with success.
        ValueError: `url` is not on this machine.
    """
    loopback_address(url)
    if (wrk := shutil.which("wrk")) is None:
        raise WrkError("this benchmark loads the server with wrk; install it, for instance with `apt install wrk`")
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        fields = ", ".join(f"[{name!r}] = {value!r}" for name, value in headers.items())
        script.write(_SCRIPT % (", ".join(f"{str(path)!r}" for path in bodies), fields, concurrency))
        script.flush()
        command = [wrk, "-t1", f"-c{concurrency}", f"-d{duration_s}s", "--latency", "--timeout=30s", "-s", script.name]
        done = subprocess.run([*command, url], capture_output=True, text=True, check=False)
    if done.returncode:
        raise WrkError(f"wrk ended with code {done.returncode}: {done.stdout}{done.stderr}")
    return parse(done.stdout)


def parse(printed: str) -> Load:
    """Read what `wrk --latency` prints.

    Raises:
        WrkError: some answers were no successes, or the text is not wrk's.
    """
    for failure in ("Non-2xx", "Socket errors"):
        if failure in printed:
            raise WrkError(f"not every request succeeded: {printed}")
    rate = re.search(r"^Requests/sec:\s+([\d.]+)", printed, re.MULTILINE)
    if rate is None:
        raise WrkError(f"not what wrk prints: {printed!r}")
    steady = re.search(r"^Answers after the first \d+: (\d+) in ([\d.]+) s$", printed, re.MULTILINE)
    if steady is None:
        raise WrkError(f"no answer was counted in {printed!r}; was it run with another script?")
    per_s, counted = float(rate[1]), int(steady[1])
    steady_per_s = counted / float(steady[2]) if counted else per_s
    return Load(per_s, _percentile(printed, 50), _percentile(printed, 99), steady_per_s)


def _percentile(printed: str, percent: int) -> float:
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)\s*$", printed, re.MULTILINE)
    if found is None:
        raise WrkError(f"no {percent} % percentile in {printed!r}; is --latency missing?")
    return float(found[1]) * _MS[found[2]]
