"""Reading what wrk prints: figures of a clean run, and no figures of one with failures."""

from __future__ import annotations

import asyncio
import itertools
import shutil
from pathlib import Path

import pytest

from benchmarks import wrk
from tests.benchmarks.http_server import ok, scripted

CLEAN = """Running 2s test @ http://127.0.0.1:8000/classify
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    47.60ms    5.02ms  65.20ms   70.59%
    Req/Sec   168.25     15.33   191.00     65.00%
  Latency Distribution
     50%  {p50}
     75%   50.60ms
     90%   54.03ms
     99%    1.06s
  337 requests in 2.00s, 320.33KB read
Requests/sec:    168.12
Transfer/sec:    159.80KB
Answers after the first 8: {counted} in {took_s} s
"""


PHOTOGRAPHS = Path(__file__).parent.parent / "photographs"
ESPRESSO, README = PHOTOGRAPHS / "espresso.jpg", PHOTOGRAPHS / "README.md"


def clean(p50="47.25ms", counted=350, took_s="2.000000") -> str:
    return CLEAN.format(p50=p50, counted=counted, took_s=took_s)


@pytest.mark.parametrize(("printed", "p50_ms"), [("47.25ms", 47.25), ("812.00us", 0.812), ("1.50s ", 1500.0)])
def test_rate_and_percentiles_are_read_in_milliseconds(printed: str, p50_ms: float) -> None:
    """Whatever unit wrk chose, latencies come out in milliseconds; it writes a space behind seconds."""
    found = wrk.parse(clean(p50=printed))
    assert found == wrk.Load(168.12, pytest.approx(p50_ms), pytest.approx(1060.0), pytest.approx(175.0))


def test_without_answers_after_the_first_the_steady_rate_is_the_plain_one() -> None:
    """A load of which no connection saw a second answer has no steady part."""
    assert wrk.parse(clean(counted=0, took_s="0.000000")).steady_per_s == 168.12


def test_text_of_another_script_is_refused() -> None:
    """A steady rate that nobody counted is not made up."""
    with pytest.raises(wrk.WrkError, match="run with another script"):
        wrk.parse(clean().replace("Answers", "Questions"))


@pytest.mark.skipif(shutil.which("wrk") is None, reason="needs wrk (apt install wrk)")
def test_answers_are_counted_from_when_each_connection_could_have_one() -> None:
    """A real server that holds its first four answers until all are asked gets every body, and both rates are known."""

    async def run() -> tuple[wrk.Load, list[bytes]]:
        asked, four = itertools.count(1), asyncio.Event()

        async def respond(_: bytes) -> list[bytes]:
            if next(asked) == 4:
                four.set()
            await four.wait()
            return [ok()]

        async with scripted(respond) as (url, server):
            load = await asyncio.to_thread(wrk.post, f"{url}/", [ESPRESSO, README], concurrency=4, duration_s=1)
            return load, server.bodies

    load, bodies = asyncio.run(run())
    assert set(bodies) == {ESPRESSO.read_bytes(), README.read_bytes()}
    assert 0 < load.steady_per_s != load.per_s > 0


@pytest.mark.parametrize("line", ["  Non-2xx or 3xx responses: 3\n", "  Socket errors: connect 0, read 1, write 0\n"])
def test_a_run_with_failures_has_no_figures(line: str) -> None:
    """Refusals are fast; a rate that counts them would flatter."""
    with pytest.raises(wrk.WrkError, match="not every request succeeded"):
        wrk.parse(clean() + line)


def test_text_of_something_else_is_refused() -> None:
    """What has no rate in it is not wrk's."""
    with pytest.raises(wrk.WrkError, match="not what wrk prints"):
        wrk.parse("hello")


def test_load_stays_on_this_machine() -> None:
    """Another host is refused before anything is sent."""
    with pytest.raises(ValueError, match="only sent to this machine"):
        wrk.post("http://198.51.100.7:80/classify", [Path("a.jpg")], concurrency=1, duration_s=1)


def test_without_wrk_the_error_says_how_to_get_it(monkeypatch) -> None:
    """The message names the package."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(wrk.WrkError, match="apt install wrk"):
        wrk.post("http://127.0.0.1:9/classify", [Path("a.jpg")], concurrency=1, duration_s=1)
