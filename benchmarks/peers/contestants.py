"""Who takes part: how each server is started, the settings it was tried with and why, and how a photograph is posted.

Data only. A setting's first entry is the one that is measured; the others were tried beside it (`--tune`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

PHISERVE = "phiserve"
_SERVERS = "benchmarks.peers.servers"


@dataclass(frozen=True, slots=True)
class Setting:
    """One way to run a server on two cores: a name that says it, variables, and flags after the command."""

    name: str
    environment: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Contestant:
    """One server.

    `command` and flags may hold `{bin}` (its environment's programs), `{port}`, `{store}`, `{variant}` and `{metrics}`
    (another free port); `path` may hold `{variant}`. `packages` are those whose versions are stated. `wrapped`: bodies
    are messages of the Open Inference Protocol rather than bare photographs.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    command: tuple[str, ...]
    path: str
    settings: tuple[Setting, ...]
    why: str
    wrapped: bool = False

    def setting(self, name: str) -> Setting:
        """The setting of that name."""
        return next(setting for setting in self.settings if setting.name == name)


def _of(threads: int, workers: int, **more: str) -> Mapping[str, str]:
    return {"PEER_THREADS": str(threads), "PEER_WORKERS": str(workers)} | more


_WORKERS_2 = Setting("2 workers, 1 thread each", _of(1, 2))
_WORKER_1 = Setting("1 worker, 2 threads", _of(2, 1))
_WORKERS_2_WIDE = Setting("2 workers, 2 threads each", _of(2, 2))

# Direct ingress would need a balancer in front of the replicas.
_RAY_FAST = _of(1, 2, RAY_SERVE_THROUGHPUT_OPTIMIZED="1", RAY_SERVE_ENABLE_DIRECT_INGRESS="0")

CONTESTANTS = (
    Contestant(
        PHISERVE,
        "phiserve",
        ("onnxruntime", "pillow", "uvicorn"),
        ("{bin}/phiserve", "serve", "--port", "{port}", "--grpc-port", "{metrics}", "--store", "{store}",
         "--log-level", "warning"),
        "/classify?variant={variant}&budget_ms=5000&top_k=5",
        (
            Setting("default flags"),
            Setting("this variant only", flags=("--variant", "{variant}")),
        ),
        "Default flags: all six variants of the store are loaded, and the request pins one. `this variant only` has "
        "loaded no others, as every peer here.",
    ),
    Contestant(
        "mosec",
        "Mosec",
        ("mosec", "onnxruntime", "pillow"),
        ("{bin}/python", "-m", f"{_SERVERS}.mosec_server", "--address", "127.0.0.1", "--port", "{port}",
         "--timeout", "60000", "--log-level", "warning"),
        "/inference",
        (
            _WORKERS_2,
            _WORKERS_2_WIDE,
            _WORKER_1,
            Setting("2 stages, batches of 8", _of(1, 1, PEER_STAGES="2", PEER_BATCH="8")),
        ),
        "`append_worker(num=…)` is Mosec's way to use cores; two stages and a dynamic batch are its tutorial's.",
    ),
    Contestant(
        "fastapi",
        "FastAPI",
        ("fastapi", "uvicorn", "onnxruntime", "pillow"),
        ("{bin}/uvicorn", f"{_SERVERS}.fastapi_server:application", "--factory", "--host", "127.0.0.1",
         "--port", "{port}", "--no-access-log", "--log-level", "warning"),
        "/classify",
        (
            Setting("2 processes, 1 pool thread, 1 thread a run", _of(1, 1), ("--workers", "2")),
            Setting("1 process, 2 pool threads, 1 thread a run", _of(1, 2)),
            Setting("1 process, 2 pool threads, 2 threads a run", _of(2, 2)),
        ),
        "A session's `run` and Pillow's decoder let other threads work, so a pool of as many threads as cores is the "
        "plain way; uvloop, httptools and orjson are installed.",
    ),
    Contestant(
        "litserve",
        "LitServe",
        ("litserve", "onnxruntime", "pillow"),
        ("{bin}/python", "-m", f"{_SERVERS}.litserve_server"),
        "/predict",
        (
            _WORKERS_2,
            Setting("2 workers, fast queue", _of(1, 2, PEER_FAST_QUEUE="1")),
            Setting("2 workers, 2 API servers", _of(1, 2, PEER_API_SERVERS="2")),
            _WORKER_1,
        ),
        "`workers_per_device` is LitServe's way to use cores; `fast_queue` and `num_api_servers` are its switches for "
        "high rates.",
    ),
    Contestant(
        "bentoml",
        "BentoML",
        ("bentoml", "onnxruntime", "pillow"),
        ("{bin}/bentoml", "serve", f"{_SERVERS}.bentoml_server:Classify", "--host", "127.0.0.1", "--port", "{port}"),
        "/classify",
        (
            _WORKERS_2,
            _WORKERS_2_WIDE,
            _WORKER_1,
        ),
        "`workers` of the service is BentoML's way to use cores; the photograph is the body itself, as a file, and "
        "access logs, metrics and tracing are off.",
    ),
    Contestant(
        "ray",
        "Ray Serve",
        ("ray", "onnxruntime", "pillow"),
        ("{bin}/python", "-m", f"{_SERVERS}.ray_server"),
        "/classify",
        (
            Setting("2 replicas, 1 thread each", _of(1, 2)),
            Setting("2 replicas, throughput switches", _RAY_FAST),
            Setting("1 replica, 2 threads", _of(2, 1)),
        ),
        "Replicas are Ray Serve's way to use cores; `RAY_SERVE_THROUGHPUT_OPTIMIZED` is the switch of its performance "
        "guide.",
    ),
    Contestant(
        "pytriton",
        "PyTriton",
        ("nvidia-pytriton", "onnxruntime", "pillow"),
        ("{bin}/python", "-m", f"{_SERVERS}.pytriton_server"),
        "/v2/models/classify/infer",
        (
            _WORKERS_2,
            Setting("1 worker, 2 threads, batches of 8", _of(2, 1, PEER_BATCH="8")),
            _WORKER_1,
        ),
        "A list of inference callables is PyTriton's way to use cores; batches are Triton's dynamic ones. Photographs "
        "go in as binary tensors of Triton's HTTP, the answer comes as JSON.",
        wrapped=True,
    ),
)  # fmt: skip


def named(name: str) -> Contestant:
    """The contestant of that name."""
    return next(contestant for contestant in CONTESTANTS if contestant.name == name)
