"""Who may import whom. The table of ARCHITECTURE.md, checked against the imports of every module."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("model_store", "service", "phiserve")
STDLIB = sys.stdlib_module_names

# (module prefix) -> (our modules it may import, third-party packages it may import, stdlib it must not import).
# The longest matching prefix decides.
CORE_FORBIDS = {"asyncio", "threading", "time", "socket", "selectors", "concurrent", "multiprocessing", "random"}
PURE_STORE = {"model_store"}
RULES: dict[str, tuple[set[str], set[str], set[str]]] = {}


def rule(prefix: str, ours: set[str], third_party: set[str] = frozenset(), forbids: set[str] = frozenset()) -> None:
    RULES[prefix] = (set(ours), set(third_party), set(forbids))


READ_SIDE = {
    "model_store.footprint",
    "model_store.labels",
    "model_store.latency_profile",
    "model_store.manifest",
    "model_store.strict_json",
}
rule("model_store", {"model_store"})
rule("model_store.weights", {"model_store"}, {"numpy"})
rule("model_store.untrained_tensors", {"model_store"}, {"numpy"})
rule("model_store.checkpoint", {"model_store"}, {"numpy", "safetensors"})
rule("model_store.torch_pickle", {"model_store"}, {"numpy"})
rule("model_store.sources", {"model_store"}, {"numpy"})
rule("model_store.hub_download", {"model_store"}, {"huggingface_hub"})
rule("model_store.onnx_graph", {"model_store"}, {"numpy", "onnx"})
rule("model_store.int8_weights", {"model_store"}, {"numpy"})
rule("model_store.quantize", {"model_store"}, {"numpy", "onnx"})
rule("model_store.half_precision", {"model_store"}, {"numpy", "onnx"})
rule("model_store.bfloat", {"model_store"}, {"onnx"})
rule("model_store.expected_inputs", {"model_store"}, {"numpy"})
rule("model_store.cli", {"model_store"}, {"typer", "rich"})
rule("service", set())
rule("service.errors", set())
rule("service.exchange", set())
rule("service.settings", {"model_store.store_root"})
rule("service.configuration", {"service.settings"})
rule("service.setting_options", {"service.configuration", "service.settings"}, {"typer"})
rule("service.core", {"service.core", "service.errors"} | READ_SIDE, forbids=CORE_FORBIDS)
rule("service.core.clock", set(), forbids=CORE_FORBIDS - {"time"})
rule("service.core.absence", {"service.core"}, forbids=CORE_FORBIDS - {"asyncio"})
rule("service.core.alarm", {"service.core.clock"}, forbids=CORE_FORBIDS - {"asyncio"})
rule("service.core.flight", {"service.core", "service.errors"} | READ_SIDE, forbids=CORE_FORBIDS - {"asyncio"})
rule(
    "service.core.engine",
    {"service.core", "service.errors"} | READ_SIDE,
    forbids=CORE_FORBIDS - {"asyncio", "threading"},
)
RUNTIME_OURS = {
    "service.runtime",
    "service.core.request",
    "service.core.ports",
    "service.core.clock",
    "service.errors",
    "model_store.catalogue",
} | READ_SIDE
rule("service.runtime", RUNTIME_OURS, {"numpy", "PIL"})
rule("service.runtime.resize", RUNTIME_OURS, {"PIL", "cykooz_resizer"})
rule("service.runtime.jpeg", RUNTIME_OURS, {"simplejpeg"})
rule("service.runtime.session", RUNTIME_OURS, {"numpy", "onnxruntime"})
rule("service.runtime.bound_runs", RUNTIME_OURS, {"numpy", "onnxruntime"})
rule(
    "service.frontends",
    {
        "service.frontends",
        "service.core.engine",
        "service.core.generation",
        "service.core.request",
        "service.core.tally",
        "service.errors",
        "service.exchange",
    }
    | READ_SIDE,
    {"fastapi", "starlette", "pydantic", "orjson", "python_multipart"},
)
rule("service.frontends.status_codes", {"service.errors"})
rule("service.frontends.inference", {"service.frontends.inference"}, {"google", "grpc"})
rule("service.frontends.oip_grpc", {"service.frontends", "service.errors"}, {"grpc"})
rule(
    "service.frontends.grpc_envelope",
    {"service.frontends", "service.errors", "service.exchange"},
    {"grpc", "grpc_status"},
)
rule("service.frontends.grpc_attendants", set(), {"grpc"})
rule("service.frontends.grpc_closing", set(), {"grpc"})
rule("service.frontends.grpc_peer", {"service.frontends"}, {"grpc"})
rule("service.frontends.grpc_status", {"service.frontends", "service.errors"}, {"google", "grpc"})
rule(
    "service.frontends.grpc_classifier",
    {"service.frontends", "service.core.engine", "service.core.request", "service.errors", "phiserve.v1"},
    {"grpc"},
)
rule(
    "service.frontends.grpc_messages",
    {"service.frontends", "service.core.generation", "service.core.request", "service.errors", "phiserve.v1"}
    | READ_SIDE,
)
rule("service.telemetry", {"service.telemetry", "service.core.instrument", "service.core.request"}, {"orjson"})
rule("service.telemetry.residency_metrics", set(), {"prometheus_client"})
rule("service.telemetry.error_kinds", {"service.errors"})
TELEMETRY_OURS = {
    "service.telemetry",
    "service.core.instrument",
    "service.core.request",
    "service.errors",
    "service.exchange",
}
rule("service.telemetry.access_log", TELEMETRY_OURS)
rule("service.telemetry.span_attributes", TELEMETRY_OURS)
rule("service.telemetry.observers", TELEMETRY_OURS | {"service.core.clock"})
rule("service.telemetry.tracing", TELEMETRY_OURS, {"opentelemetry"})
rule(
    "service.telemetry.metrics",
    {"service.telemetry", "service.core.instrument", "service.core.request", "service.errors"},
    {"prometheus_client"},
)
rule("service.evaluation", {"service.runtime", "service.errors", "model_store"}, {"numpy"})
rule(
    "service.range_calibration",
    {"service.runtime", "service.evaluation", "service.errors", "model_store"},
    {"numpy"},
)
rule("service.profile_report", {"service.core", "model_store.latency_profile"})
rule(
    "service.provider_choice",
    {
        "model_store.catalogue",
        "service.core.clock",
        "service.runtime.precisions",
        "service.runtime.providers",
        "service.runtime.session",
        "service.settings",
        "service.store_loading",
    },
    {"numpy"},
)
rule("service.store_loading", {"service.core", "service.runtime", "service.settings", "model_store"})
rule(
    "service.reloading",
    {
        "service.core",
        "service.errors",
        "service.runtime.session",
        "service.side_thread",
        "service.store_loading",
        "model_store.catalogue",
    },
)
rule("service.side_thread", set())
rule(
    "service.limited_loading",
    {"service.core", "service.runtime", "service.settings", "service.store_loading", "model_store"},
)
rule("service.variant_keeper", {"service.core", "service.errors", "service.limited_loading", "service.side_thread"})
rule("service.app", {"service", "model_store"})
rule("service.tls", set())
rule("service.http_protocol", {"service.frontends"}, {"starlette", "uvicorn"})
rule(
    "service.http_server",
    {"service.frontends", "service.http_protocol", "service.tls"},
    {"starlette", "uvicorn", "uvloop"},
)
rule(
    "service.grpc_server",
    {"service.exchange", "service.frontends", "service.http_server", "service.tls"},
    {"grpc", "grpc_health", "grpc_reflection"},
)
rule(
    "service.serving",
    {
        "service.core.engine",
        "service.errors",
        "service.http_server",
        "service.grpc_server",
        "service.settings",
        "service.tls",
    },
)
rule("service.fronts", {"service", "phiserve.v1"}, {"fastapi"})
rule("service.cli", {"service", "model_store"}, {"typer", "rich"})
rule("service.__main__", {"service"}, {"typer"})
rule("phiserve", {"phiserve"}, {"httpx", "orjson", "typer", "rich"})
rule("phiserve.grpc_wire", {"phiserve"}, {"google"})
rule("phiserve.grpc_transport", {"phiserve"}, {"grpc", "grpc_health"})
rule("phiserve.grpc_stream", {"phiserve"}, {"grpc"})
rule("phiserve.v1", {"phiserve.v1"}, {"google", "grpc"})
rule("phiserve.images", {"phiserve"}, {"PIL", "numpy"})
# The one place where a client's package knows the server: it mounts the server's commands, imported when run.
rule("phiserve.cli", {"phiserve", "service.cli", "model_store.cli"}, {"typer"})

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Every module that `path` imports, at the top or inside a function; relative imports are refused elsewhere."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                dotted = f"{node.module}.{alias.name}"
                is_module = (ROOT / Path(*dotted.split("."))).with_suffix(".py").exists()
                found.add(dotted if is_module else str(node.module))
    return found


def within(name: str, allowed: set[str]) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in allowed)


def forbidden(path: Path) -> list[str]:
    """What the module imports and may not."""
    prefix = max((p for p in RULES if within(module_name(path), {p})), key=len)
    ours, third_party, forbids = RULES[prefix]

    def is_allowed(imported: str) -> bool:
        top = imported.split(".", maxsplit=1)[0]
        if top in PACKAGES:
            return within(imported, ours) or imported == top
        return top not in forbids if top in STDLIB else top in third_party

    return [imported for imported in sorted(imports(path)) if not is_allowed(imported)]


def test_imports_follow_the_layers() -> None:
    """Each module imports only what the table of layers allows it."""
    assert {module_name(path): found for path in MODULES if (found := forbidden(path))} == {}


def test_a_clock_is_read_in_one_place_of_core() -> None:
    """No module of core but clock.py mentions a function that reads a clock."""
    for path in (ROOT / "service" / "core").glob("*.py"):
        if path.name != "clock.py":
            text = path.read_text()
            for reading in ("time.time", "monotonic(", "perf_counter", "datetime.now", "loop().time"):
                assert reading not in text, f"{path.name} reads a clock: {reading}"


def test_the_table_has_no_dead_rows() -> None:
    """Every row of the table governs a module that exists."""
    names = {module_name(path) for path in MODULES}
    assert [prefix for prefix in RULES if prefix not in names] == []
