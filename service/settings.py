"""Every knob of the server, once: name with its unit, default, bounds, and when one would change it.

Flags and `PHISERVE_*` variables are made from these fields (`service/cli.py`), so that a setting cannot exist
on one way in and not on another. Read once at the edge; nothing deeper than `app.py` sees this object whole.
"""

from __future__ import annotations

import functools
import ipaddress
import math
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from model_store.store_root import default_store_root

ProviderName = Literal["auto", "cpu", "cuda", "tensorrt", "openvino"]
LogFormat = Literal["auto", "text", "json"]
Switch = Literal["on", "off"]
LogLevel = Literal["debug", "info", "warning", "error"]


class SettingsError(ValueError):
    """A setting out of its bounds, or two that contradict each other. The message names the flag to mend."""


@dataclass(frozen=True, slots=True)
class Knob:
    """What a setting is for and, for numbers, the bounds it must be within (both included)."""

    help: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """The whole configuration of `phiserve serve`.

    Raises:
        SettingsError: on construction, if a value is out of bounds or two contradict each other.
    """

    host: Annotated[str, Knob("Address to listen on. Set to 0.0.0.0 to serve other machines.")] = "127.0.0.1"
    port: Annotated[int, Knob("Port of the REST API; 0 takes a free one.", 0, 65535)] = 8000
    grpc_port: Annotated[int, Knob("Port of the gRPC services; 0 takes a free one.", 0, 65535)] = 8001
    grpc: Annotated[Switch, Knob("Whether gRPC is served. Switch it off where only HTTP may be open.")] = "on"
    tls_cert: Annotated[
        Path | None, Knob("Certificate chain as a PEM file: both ports then speak TLS only. Needs --tls-key.")
    ] = None
    tls_key: Annotated[Path | None, Knob("The certificate's key as a PEM file, without a passphrase.")] = None
    tls_client_ca: Annotated[
        Path | None,
        Knob("Authorities that vouch for clients, as a PEM file: callers without such a certificate are refused."),
    ] = None
    trusted_proxies: Annotated[
        str,
        Knob(
            "Addresses and networks of proxies in front, separated by commas: their X-Forwarded-For says who calls. "
            "Without it all callers behind a proxy count as one for --admitted-per-client-max.",
        ),
    ] = ""
    admin_token_file: Annotated[
        Path | None,
        Knob("File with a bearer token: POST /admin/reload is then served to whoever has it. Without it, to nobody."),
    ] = None
    store: Annotated[Path, Knob("Folder of the model store that `phiserve store build` filled.")] = field(
        default_factory=default_store_root
    )
    variants: Annotated[
        tuple[str, ...], Knob("Serve only these variants; repeat the flag. Default: all there are.")
    ] = ()
    allow_untrained: Annotated[
        bool, Knob("Also serve variants with untrained weights, for benchmarks and tests: their answers mean nothing.")
    ] = False
    provider: Annotated[
        ProviderName,
        Knob("ONNX Runtime execution provider; auto takes the one of those installed that is the fastest here."),
    ] = "auto"
    workers: Annotated[int, Knob("Runs that may go side by side; 0: one per core on a CPU, one on a GPU.", 0, 256)] = 0
    decode_threads: Annotated[
        int,
        Knob(
            "Threads that decode images; 0: half the cores on a CPU, all of them with a GPU.",
            0,
            256,
        ),
    ] = 0
    cuda_graphs: Annotated[
        Switch,
        Knob(
            "On a GPU, replay each batch size as one recorded graph: single images take a third of the time. Off by "
            "default, since no server has run with it yet."
        ),
    ] = "off"
    resize_threads: Annotated[
        int,
        Knob(
            "Threads that help workers to crop and resize the pictures of a batch; 0: none on a CPU, half the cores "
            "with a GPU.",
            0,
            256,
        ),
    ] = 0
    batch_size_max: Annotated[
        int, Knob("Largest batch profiled and planned; 0: 8 on a CPU (1 under a memory limit), 32 on a GPU.", 0, 256)
    ] = 0
    memory_limit_mib: Annotated[
        int,
        Knob(
            "MiB of memory for the server and the variants it keeps loaded; others are loaded when they are worth it, "
            "or named by a request whose budget covers that. Pictures that wait come on top, see --queue-bytes-max. 0: "
            "all variants are loaded. On a CPU under Linux only.",
            0,
            1_048_576,
        ),
    ] = 0
    queue_size_max: Annotated[
        int, Knob("Decoded requests that may wait; beyond it callers get 429. Bounds memory.", 1, 100_000)
    ] = 512
    queue_bytes_max: Annotated[
        int, Knob("Bytes of decoded pictures that may wait; beyond it callers get 429. Bounds memory.", 1, 2**40)
    ] = 768 * 1024**2
    admitted_max: Annotated[
        int, Knob("Requests between door and answer; beyond it callers get 429. Bounds memory.", 1, 100_000)
    ] = 1024
    admitted_per_client_max: Annotated[
        int, Knob("The same for one client address, so that a flood leaves room for others.", 1, 100_000)
    ] = 256
    image_bytes_max: Annotated[int, Knob("Largest encoded image, in bytes.", 1, 1024**3)] = 20 * 1024**2
    body_bytes_max: Annotated[int, Knob("Largest body of a multipart request, in bytes.", 1, 2**31)] = 64 * 1024**2
    image_pixels_max: Annotated[int, Knob("Largest image, in pixels.", 1, 178_956_970)] = 50_000_000
    images_per_request_max: Annotated[int, Knob("Most images in one multipart request.", 1, 256)] = 16
    http_keepalive_s: Annotated[
        int,
        Knob(
            "Silence after which an HTTP connection is closed, in seconds. Keep it above the idle time of proxies in "
            "front: whoever reuses a connection in the moment it is closed loses a request.",
            1,
            86_400,
        ),
    ] = 75
    grpc_concurrent_rpcs_max: Annotated[
        int,
        Knob("gRPC calls in progress, a stream being one; beyond it callers get RESOURCE_EXHAUSTED.", 1, 1_000_000),
    ] = 2048
    grpc_keepalive_s: Annotated[
        float,
        Knob(
            "Silence on a gRPC connection after which its peer is asked whether it lives, in seconds. Lower it behind "
            "proxies that drop silent connections sooner.",
            1,
            86_400,
        ),
    ] = 60.0
    grpc_connection_age_s: Annotated[
        float,
        Knob(
            "Age at which a gRPC connection is told to end, in seconds; its calls go on. Clients then ask anew who "
            "serves, so that servers that were added get their share.",
            1,
            31_536_000,
        ),
    ] = 600.0
    stream_frames_max: Annotated[
        int, Knob("Frames of one stream that are read and not yet answered; then the sender waits.", 1, 10_000)
    ] = 32
    stream_in_service_max: Annotated[
        int, Knob("Those of them that the scheduler knows of at a time; the rest wait in the stream.", 1, 10_000)
    ] = 8
    top_k_max: Annotated[int, Knob("Most classes a request may ask for.", 1, 10_000)] = 100
    budget_ms_default: Annotated[float, Knob("Budget of a request that names none, in ms.", 1, 3_600_000)] = 1000.0
    budget_ms_max: Annotated[float, Knob("Largest budget a request may name, in ms.", 1, 3_600_000)] = 60_000.0
    late_wait_ms_max: Annotated[
        float, Knob("How long past its deadline a request with on_miss=late may wait, in ms.", 0, 3_600_000)
    ] = 30_000.0
    drain_notice_s: Annotated[
        float,
        Knob("After SIGTERM, seconds of not being ready but still serving: the time a load balancer needs.", 0, 3600),
    ] = 1.0
    drain_timeout_s: Annotated[
        float, Knob("Seconds that draining may take before what is left is refused.", 0, 3600)
    ] = 25.0
    # Predictions go by the 90 % quantile of recent runs: what disturbs less than a tenth of them has nobody refused.
    reload_core_share: Annotated[
        float,
        Knob(
            "Share of one core that loading another version of the store, or a variant that nobody waits for, takes "
            "from requests. Raise it where no budget is close to what a request takes: it is over sooner.",
            0.01,
            1,
        ),
    ] = 0.077
    log_level: Annotated[LogLevel, Knob("Least severe log records shown.")] = "info"
    log_format: Annotated[LogFormat, Knob("auto: text on a terminal, JSON elsewhere.")] = "auto"
    access_log: Annotated[
        str,
        Knob("off; errors: a line for each exchange that ended in one; a share from 0 to 1: of the others too."),
    ] = "off"
    tracing_endpoint: Annotated[
        str | None,
        Knob(
            "Base URL of an OTLP/HTTP receiver, such as http://localhost:4318: spans are sent there. Needs [tracing]."
        ),
    ] = None
    tracing_ratio: Annotated[
        float, Knob("Share of traces kept of those that begin here; callers who began one decide themselves.", 0, 1)
    ] = 1.0

    def __post_init__(self) -> None:
        """Check every bound and contradiction at once, at start."""
        for name, knob in knobs().items():
            value = getattr(self, name)
            if knob.low is not None and knob.high is not None and not knob.low <= value <= knob.high:
                raise SettingsError(f"{flag(name)} must be from {knob.low:g} to {knob.high:g}, got {value:g}")
        if self.budget_ms_default > self.budget_ms_max:
            raise SettingsError(
                f"{flag('budget_ms_default')} ({self.budget_ms_default:g}) is above {flag('budget_ms_max')} "
                f"({self.budget_ms_max:g}); raise the maximum or lower the default"
            )
        if self.body_bytes_max < self.image_bytes_max:
            raise SettingsError(
                f"{flag('body_bytes_max')} ({self.body_bytes_max}) is below {flag('image_bytes_max')} "
                f"({self.image_bytes_max}); an allowed image would not fit"
            )
        if self.admitted_max < self.queue_size_max:
            raise SettingsError(
                f"{flag('admitted_max')} ({self.admitted_max}) is below {flag('queue_size_max')} "
                f"({self.queue_size_max}); the queue could never fill"
            )
        if self.stream_frames_max < self.stream_in_service_max:
            raise SettingsError(
                f"{flag('stream_frames_max')} ({self.stream_frames_max}) is below {flag('stream_in_service_max')} "
                f"({self.stream_in_service_max}); so many could never be in service"
            )
        access_log_share(self.access_log)
        if self.tracing_endpoint is not None and not _is_base_url(self.tracing_endpoint):
            raise SettingsError(
                f"{flag('tracing_endpoint')} must be a URL such as http://localhost:4318, got {self.tracing_endpoint!r}"
            )
        _check_networks(self.trusted_proxies)
        for name, needed in (("tls_cert", "tls_key"), ("tls_key", "tls_cert"), ("tls_client_ca", "tls_cert")):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise SettingsError(f"{flag(name)} is given without {flag(needed)}; add {flag(needed)} FILE")


def access_log_share(text: str) -> float | None:
    """The share of exchanges without an error to be logged; None: none, and those with an error neither.

    Raises:
        SettingsError: neither off, errors nor a number from 0 to 1.
    """
    if text in ("off", "errors"):
        return None if text == "off" else 0.0
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share <= 1:
        raise SettingsError(f"{flag('access_log')} must be off, errors, or a share from 0 to 1, got {text!r}")
    return share


def _is_base_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("http", "https") and bool(url.hostname) and not (url.query or url.fragment)
    except ValueError:
        return False


@functools.cache
def knobs() -> dict[str, Knob]:
    """The knob of each setting, in the order of the fields."""
    hints = typing.get_type_hints(Settings, include_extras=True)
    return {name: hint.__metadata__[0] for name, hint in hints.items()}


@functools.cache
def kinds() -> dict[str, Any]:
    """The type of each setting. Kept: every look evaluates all annotations, and options ask once a setting."""
    return typing.get_type_hints(Settings)


def _check_networks(text: str) -> None:
    for network in filter(None, map(str.strip, text.split(","))):
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise SettingsError(
                f"{flag('trusted_proxies')}: {error}; give addresses or networks, such as 10.0.0.7,192.168.0.0/16"
            ) from error


def flag(name: str) -> str:
    """The command-line flag of a setting."""
    return "--" + name.replace("_", "-")


def environment_variable(name: str) -> str:
    """The environment variable of a setting."""
    return "PHISERVE_" + name.upper()
