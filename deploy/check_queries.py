"""Every query of the dashboard and every recording rule, against a real Prometheus that scrapes a real phiserve.

Starts both on free ports of the loopback interface, sends some seconds of traffic (`deploy/load/open_loop.py`), and
fails if a query finds nothing or only NaN, or if `promtool` finds fault with the page of metrics. Needs `prometheus`
on the path (a Debian package) and a store that is built; touches no running server and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import yaml

ROOT = Path(__file__).parent.parent
DASHBOARD = ROOT / "deploy/grafana/dashboards/phiserve.json"
PROMETHEUS = ROOT / "deploy/prometheus"
RATE_INTERVAL = "15s"
START_TIMEOUT_S = 120
SERVES = re.compile(r"^phiserve serves .* on http://(\S+)$")


@contextlib.contextmanager
def process(command: list[str | Path], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process for as long as the block lasts; asked to end, and made to after ten seconds."""
    running = subprocess.Popen(command, text=True, **options)
    try:
        yield running
    finally:
        running.terminate()
        try:
            running.wait(10)
        except subprocess.TimeoutExpired:
            running.kill()
            running.wait()


def free_port() -> int:
    """A port of the loopback interface that nobody has now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def configuration(folder: Path, target: str) -> Path:
    """`prometheus.yml` as it is deployed, but scraping `target`, and often enough for a short run."""
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    config["global"] |= {"scrape_interval": "1s", "evaluation_interval": "2s"}
    job = next(job for job in config["scrape_configs"] if job["job_name"] == "phiserve")
    job["static_configs"] = [{"targets": [target]}]
    config["scrape_configs"] = [job]
    config["rule_files"] = [str(PROMETHEUS / "rules.yml")]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    return path


def queries() -> dict[str, str]:
    """What must find something, by what it is for."""
    found = {}
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            expr = target["expr"].replace("$__rate_interval", RATE_INTERVAL).replace("$job", "phiserve")
            found[f"{panel['title']}: {target['legendFormat']}"] = expr
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]:
        for rule in group["rules"]:
            if "record" in rule:
                found[rule["record"]] = rule["record"]
    return found


def has_data(prometheus: httpx.Client, expr: str) -> bool:
    """Whether `expr` has a value that is a number now."""
    answer = prometheus.get("/api/v1/query", params={"query": expr}).raise_for_status().json()
    return any(not math.isnan(float(series["value"][1])) for series in answer["data"]["result"])


def wait_for_address(server: subprocess.Popen[str]) -> str:
    """The host and port that the server announces.

    Raises:
        SystemExit: it ended before that.
    """
    assert server.stdout is not None
    for line in server.stdout:
        if match := SERVES.match(line.rstrip()):
            return match[1]
    raise SystemExit("phiserve ended before it served; is the store built? `make store` does it")


def wait_until_scraped(prometheus: httpx.Client) -> None:
    """Until the target has been up once.

    Raises:
        SystemExit: it has not been after a while.
    """
    ends = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < ends:
        with contextlib.suppress(httpx.TransportError, httpx.HTTPStatusError):
            if has_data(prometheus, 'up{job="phiserve"} == 1'):
                return
        time.sleep(0.2)
    raise SystemExit("Prometheus has scraped nothing; see its messages above")


def is_well_formed(page: str) -> bool:
    """Whether `promtool` has nothing to say of the names, types and help of a page of metrics; it shows what it has."""
    if (promtool := shutil.which("promtool")) is None:
        sys.stdout.write("skipped: the page of metrics, since promtool is not on the path\n")
        return True
    checked = subprocess.run([promtool, "check", "metrics"], input=page, text=True, check=False)
    if checked.returncode == 0:
        sys.stdout.write("/metrics: no finding\n")
    return checked.returncode == 0


def main() -> int:
    """Start, send, ask; prints what found nothing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=ROOT / "model_store/artifacts")
    parser.add_argument("--seconds", type=float, default=20.0, help="of traffic; at most 60")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second; at most 100")
    options = parser.parse_args()
    seconds, rate = min(options.seconds, 60.0), min(options.rate, 100.0)
    if (binary := shutil.which("prometheus")) is None:
        raise SystemExit("prometheus is not on the path; on Debian: apt-get install prometheus")
    phiserve = Path(sys.executable).with_name("phiserve")
    serve = [phiserve, "serve", "--port", "0", "--grpc-port", "0", "--store", options.store, "--log-level", "warning"]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = wait_for_address(stack.enter_context(process(serve, stdout=subprocess.PIPE)))
        listen = f"127.0.0.1:{free_port()}"
        config = f"--config.file={configuration(folder, address)}"
        data = f"--storage.tsdb.path={folder / 'data'}"
        stack.enter_context(process([binary, config, data, f"--web.listen-address={listen}", "--log.level=warn"]))
        prometheus = stack.enter_context(httpx.Client(base_url=f"http://{listen}", timeout=10))
        wait_until_scraped(prometheus)
        load = [sys.executable, ROOT / "deploy/load/open_loop.py", ROOT / "tests/photographs", "--url"]
        traffic = [*load, f"http://{address}", "--rate", str(rate), "--seconds", str(seconds)]
        subprocess.run(traffic, check=True, timeout=seconds + 60)
        page_is_good = is_well_formed(httpx.get(f"http://{address}/metrics").raise_for_status().text)
        empty = [f"{name}\n    {expr}" for name, expr in queries().items() if not has_data(prometheus, expr)]
    for line in empty:
        sys.stdout.write(f"no data: {line}\n")
    sys.stdout.write(f"{len(queries()) - len(empty)} of {len(queries())} queries have data\n")
    return 1 if empty or not page_is_good else 0


if __name__ == "__main__":
    sys.exit(main())
