"""The one file that knows ONNX Runtime: every option it is given, with the reason, and the sessions it makes.

A `Session` is one variant's graph at one thread width. It takes and gives arrays and refuses any other shape or
type than its own. It is safe to run from several threads at once: with one thread a run happens wholly on the
calling thread. So all workers share one session per (variant, thread width).

Sessions of one variant at two widths do not share weights: the Python API can hand in common initialisers, but
the CPU provider copies each into its own blocked layout, so the common copy came on top (measured: 32 MiB of
weights at two widths take 74 MiB without it and 103 MiB with it).

The CPU provider is what everything is measured on. OpenVINO (onnxruntime-openvino 1.24) runs Lite0 and Lite2 with
the options below and agrees with it to 1e-6. Those of CUDA and TensorRT follow ONNX Runtime's documentation and are
checked as data only: they have not been run on a GPU yet.
"""

from __future__ import annotations

import atexit
import functools
import logging
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

from model_store.catalogue import CatalogueEntry
from model_store.manifest import SAFE_SUMS, ModelVariant
from service.runtime.machine import lacks_vnni

logger = logging.getLogger(__name__)

INPUT_NAME = "image"
OUTPUT_NAME = "probabilities"
TOP_NAMES = ("top_probabilities", "top_classes")

Probabilities: TypeAlias = npt.NDArray[np.float32]
Top: TypeAlias = tuple[tuple[int, float], ...]
"""One image's most probable classes as (index, probability), falling; of equal ones the lower index first."""
SessionKey: TypeAlias = tuple[str, int]
"""Variant name and thread width."""


class SessionError(Exception):
    """A graph that cannot be loaded, or is not what its manifest says. The message names the variant."""


class Provider(StrEnum):
    """Where graphs run. `AUTO` is resolved by what is installed."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"


_ORT_NAMES = {
    Provider.CPU: "CPUExecutionProvider",
    Provider.CUDA: "CUDAExecutionProvider",
    Provider.TENSORRT: "TensorrtExecutionProvider",
    Provider.OPENVINO: "OpenVINOExecutionProvider",
}
_ENABLED_BY = {
    Provider.CUDA: "install the package phiserve[gpu] in place of phiserve[cpu], on a machine with an NVIDIA driver",
    Provider.TENSORRT: "install the packages phiserve[gpu] and tensorrt, on a machine with an NVIDIA driver",
    Provider.OPENVINO: "install the package onnxruntime-openvino in place of onnxruntime",
}
# TensorRT is never chosen unasked: building its engines takes minutes per variant at the first start.
_AUTO_ORDER = (Provider.CUDA, Provider.OPENVINO, Provider.CPU)


@dataclass(frozen=True, slots=True)
class SessionOptions:
    """What one session is made for. `cache_dir` is where a provider may keep what it compiled (None: nowhere)."""

    threads: int
    batch_size_max: int
    device_id: int = 0
    cache_dir: Path | None = None


def available_providers() -> tuple[str, ...]:
    """ONNX Runtime's names of the providers that the installed package was built with."""
    return tuple(onnxruntime.get_available_providers())


def runtime_name(provider: Provider) -> str:
    """Library, version and provider, as profiles record what they were measured on."""
    return f"onnxruntime {onnxruntime.__version__} {provider.value}"


def resolve_provider(requested: Provider, available: Collection[str]) -> Provider:
    """The provider to use, given ONNX Runtime's names of those available. Never `AUTO`.

    One that was asked for by name but is not available falls back to the CPU, and the log says what would
    enable it: a server that answers slowly beats one that does not start.
    """
    if requested is Provider.AUTO:
        return next(p for p in _AUTO_ORDER if p is Provider.CPU or _ORT_NAMES[p] in available)
    if requested is not Provider.CPU and _ORT_NAMES[requested] not in available:
        logger.warning(
            "provider %s is not available, running on the CPU; to enable it, %s", requested, _ENABLED_BY[requested]
        )
        return Provider.CPU
    return requested


def provider_options(
    provider: Provider, variant: ModelVariant, options: SessionOptions
) -> list[tuple[str, dict[str, str]]]:
    """ONNX Runtime's provider list, most wanted first; each later one takes the nodes that those before cannot."""
    chains: dict[Provider, tuple[Provider, ...]] = {
        Provider.CPU: (Provider.CPU,),
        Provider.CUDA: (Provider.CUDA, Provider.CPU),
        Provider.TENSORRT: (Provider.TENSORRT, Provider.CUDA, Provider.CPU),
        Provider.OPENVINO: (Provider.OPENVINO, Provider.CPU),
    }
    makers: dict[Provider, Callable[[ModelVariant, SessionOptions], dict[str, str]]] = {
        Provider.CPU: lambda _variant, _options: {},
        Provider.CUDA: _cuda_options,
        Provider.TENSORRT: _tensorrt_options,
        Provider.OPENVINO: _openvino_options,
    }
    return [(_ORT_NAMES[link], makers[link](variant, options)) for link in chains[provider]]


def _cuda_options(_: ModelVariant, options: SessionOptions) -> dict[str, str]:
    return {
        "device_id": str(options.device_id),
        # The search costs seconds per input shape, once, and warm-up runs every planned batch size.
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        # Many variants share one GPU: doubling the arena, the default, would leave them no room.
        "arena_extend_strategy": "kSameAsRequested",
        # Copies and kernels in one stream need no synchronisation between them; batches are copied in one piece.
        "do_copy_in_default_stream": "1",
    }


def _tensorrt_options(variant: ModelVariant, options: SessionOptions) -> dict[str, str]:
    def shape(batch_size: int) -> str:
        return f"{INPUT_NAME}:{batch_size}x{variant.resolution}x{variant.resolution}x3"

    chosen = {
        "device_id": str(options.device_id),
        # Half precision only where the variant promises nothing else: fp32 means fp32.
        "trt_fp16_enable": "True" if variant.precision == "fp16" else "False",
        "trt_int8_enable": "True" if variant.precision == "int8" else "False",
        # One engine for every batch size; without a range each new batch size would build another engine.
        "trt_profile_min_shapes": shape(1),
        "trt_profile_opt_shapes": shape(options.batch_size_max),
        "trt_profile_max_shapes": shape(options.batch_size_max),
    }
    if options.cache_dir is not None:
        # Engines take minutes to build and depend on the GPU and on TensorRT's version, which the cache checks.
        folder = str(options.cache_dir / variant.name)
        chosen |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": folder,
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": folder,
        }
    return chosen


def _openvino_options(variant: ModelVariant, options: SessionOptions) -> dict[str, str]:
    chosen = {
        "device_type": "CPU",
        # The plan says how many cores a run takes; OpenVINO would take them all.
        "num_of_threads": str(options.threads),
        # One run at a time per worker: latency, not throughput.
        "num_streams": "1",
        # fp32 means fp32: by itself OpenVINO may choose bfloat16 where the CPU has it.
        "precision": "FP32",
    }
    if options.cache_dir is not None:
        chosen["cache_dir"] = str(options.cache_dir / variant.name)
    return chosen


def _session_options(options: SessionOptions) -> onnxruntime.SessionOptions:
    chosen = onnxruntime.SessionOptions()
    # The plan's thread width, the calling worker's own thread counted.
    chosen.intra_op_num_threads = options.threads
    # These networks are one chain of nodes: nothing to run side by side, so no second pool of threads.
    chosen.inter_op_num_threads = 1
    chosen.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A pool thread that sleeps between two nodes wakes late: lite0 on two threads takes 4.5 ms without spinning and
    # 3.5 ms with it. But it must not burn the cores that decoding and the other workers need (20 ms of CPU time a
    # run by default, where 7 ms is the work), so it spins for 20 us at most and never beyond a run (8 ms).
    chosen.add_session_config_entry("session.intra_op.allow_spinning", "1")
    chosen.add_session_config_entry("session.intra_op.spin_duration_us", "20")
    chosen.add_session_config_entry("session.force_spinning_stop", "1")
    # Includes the layout that the CPU's convolutions want. Done once per start, so nothing is saved by less.
    chosen.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    # One arena for all sessions, grown by warm-up to what side-by-side runs need and kept: nothing is allocated
    # while serving. An arena each took 1200 MB where this takes 500 (Lite0 to Lite2, two widths, batch 8), and none
    # at all makes batches a third slower.
    chosen.enable_cpu_mem_arena = True
    chosen.add_session_config_entry("session.use_env_allocators", "1")
    # Plans memory per input shape once it was seen; the shapes are the planned batch sizes, few.
    chosen.enable_mem_pattern = True
    # Warnings and errors; they go to `logging`, see `route_logs`.
    chosen.log_severity_level = 2
    return chosen


@functools.cache
def _share_arena() -> None:
    """Register the process's one CPU arena, before the first session that asks for it."""
    memory = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    onnxruntime.create_and_register_allocator(memory, None)


def route_logs() -> None:
    """Send ONNX Runtime's own messages to `logging` instead of to standard error. Repeating it changes nothing.

    Versions without that call keep writing to standard error, warnings and errors only.
    """
    if hasattr(onnxruntime, "set_default_logger_callback"):
        onnxruntime.set_default_logger_callback(_log)
        # Not into an interpreter that is being taken down.
        atexit.register(onnxruntime.set_default_logger_callback, None)


_SEVERITIES = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


def _log(severity: int, _category: str, logid: str, location: str, message: str) -> None:
    logger.log(_SEVERITIES[severity], "onnxruntime %s (%s): %s", logid, location, message)


class Session:
    """One variant's graph, loaded, on one provider, at one thread width."""

    def __init__(
        self, model: bytes, variant: ModelVariant, options: SessionOptions, provider: Provider = Provider.CPU
    ) -> None:
        """Load `model`, whose sha256 was verified by the catalogue.

        Raises:
            SessionError: ONNX Runtime cannot load it, or its input or output is not what `variant` says.
        """
        if options.threads < 1 or options.batch_size_max < 1:
            raise ValueError(f"threads and batch_size_max must be 1 or more, got {options}")
        self.variant = variant
        self.threads = options.threads
        _share_arena()
        try:
            self._ort = onnxruntime.InferenceSession(
                model,
                _session_options(options),
                providers=provider_options(provider, variant, options),
                enable_fallback=0,  # it would print, and run on another provider than the profile is for
            )
        except Exception as error:  # ONNX Runtime's exception types have no common base
            raise SessionError(f"{variant.name} cannot be loaded on {provider}: {error}") from error
        # The wrapper keeps the whole file, for a re-creation that never happens here; the weights are copied.
        self._ort._model_bytes = None  # noqa: SLF001  no public way to let go of it
        self._check_graph()
        self._check_sums()
        self.provider = self._provider_in_use(provider)

    def _check_graph(self) -> None:
        side, classes = self.variant.resolution, self.variant.class_count
        inputs = [(node.name, node.type, list(node.shape)[1:]) for node in self._ort.get_inputs()]
        outputs = [(node.name, node.type, list(node.shape)[1:]) for node in self._ort.get_outputs()]
        # How many classes the graph sorts is its own affair, as long as both outputs agree.
        self._sorted_max = outputs[1][2][0] if len(outputs) > 1 else 0
        wanted_in = [(INPUT_NAME, "tensor(uint8)", [side, side, 3])]
        wanted_out = [
            (OUTPUT_NAME, "tensor(float)", [classes]),
            (TOP_NAMES[0], "tensor(float)", [self._sorted_max]),
            (TOP_NAMES[1], "tensor(int64)", [self._sorted_max]),
        ]
        if inputs != wanted_in or outputs != wanted_out:
            raise SessionError(
                f"the graph of {self.variant.name} takes {inputs} and gives {outputs}; its manifest says {wanted_in} "
                f"and {wanted_out}. Rebuild it with `phiserve store build {self.variant.name}`"
            )

    def _check_sums(self) -> None:
        """Refuse an int8 graph of an older builder where it would overflow without a word (`int8_weights.py`)."""
        if self.variant.precision == "int8" and lacks_vnni() and SAFE_SUMS not in self._metadata():
            raise SessionError(
                f"{self.variant.name} was built for processors with VNNI, and this one has none; rebuild it with "
                f"`phiserve store build {self.variant.name}`"
            )

    def _metadata(self) -> Mapping[str, str]:
        return dict(self._ort.get_modelmeta().custom_metadata_map)

    def _provider_in_use(self, wanted: Provider) -> Provider:
        """ONNX Runtime drops a provider whose libraries do not load, and says so only in its log."""
        in_use = self._ort.get_providers()
        if _ORT_NAMES[wanted] in in_use:
            return wanted
        logger.warning(
            "%s was asked for on %s and runs on %s; to enable it, %s",
            self.variant.name, wanted, ", ".join(in_use), _ENABLED_BY[wanted],
        )  # fmt: skip
        return Provider.CPU

    def run(self, images: npt.NDArray[np.uint8]) -> Probabilities:
        """Class probabilities, float32 [batch, classes], of `images`, uint8 [batch, resolution, resolution, 3].

        Raises:
            ValueError: another shape or type.
            FloatingPointError: the network gave something that is no probability (NaN or infinity).
        """
        return self.classify(images, 1)[0]

    def classify(self, images: npt.NDArray[np.uint8], k: int) -> tuple[Probabilities, tuple[Top, ...]]:
        """As `run`, with the `k` most probable classes of each image.

        Raises:
            ValueError, FloatingPointError: as `run`.
        """
        side = self.variant.resolution
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (side, side, 3) or not len(images):
            raise ValueError(
                f"{self.variant.name} takes uint8 [batch, {side}, {side}, 3], got {images.dtype} {list(images.shape)}"
            )
        outputs: Sequence[Any] = self._ort.run([OUTPUT_NAME, *TOP_NAMES], {INPUT_NAME: images})
        probabilities: Probabilities = outputs[0]
        highest, classes = outputs[1].tolist(), outputs[2].tolist()
        # Softmax divides by a sum: if one score is no number, no probability of that image is one.
        if not all(math.isfinite(row[0]) for row in highest):
            raise FloatingPointError(f"{self.variant.name} gave probabilities that are not finite")
        if k > self._sorted_max:
            return probabilities, tuple(top_classes(row, k) for row in probabilities)
        return probabilities, tuple(
            tuple(zip(indices[:k], values[:k], strict=True)) for indices, values in zip(classes, highest, strict=True)
        )


def top_classes(probabilities: Probabilities, k: int) -> Top:
    """The `k` most probable of one image's classes (float32 [classes]): for more of them than the graph sorts.

    Equal probabilities come in the order of their index, also where only some of them fit into `k`.
    """
    k = min(k, len(probabilities))
    # Partitioning finds the k-th largest without sorting a thousand; all its equals are candidates, in index order.
    threshold = np.partition(probabilities, -k)[-k]
    candidates = np.flatnonzero(probabilities >= threshold)
    best = candidates[np.argsort(-probabilities[candidates], kind="stable")[:k]]
    return tuple((int(index), float(probabilities[index])) for index in best)


def open_graph(model: bytes, threads: int) -> Callable[[npt.NDArray[np.uint8]], dict[str, npt.NDArray[np.float32]]]:
    """Load any graph with our input and whatever outputs it has, on the CPU: to look inside a network, not to serve.

    What it returns takes uint8 [batch, side, side, 3] and gives every output by name.
    """
    _share_arena()
    session = onnxruntime.InferenceSession(
        model, _session_options(SessionOptions(threads, 1)), providers=[_ORT_NAMES[Provider.CPU]]
    )
    names = [output.name for output in session.get_outputs()]

    def run(images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        return dict(zip(names, session.run(names, {INPUT_NAME: images}), strict=True))

    return run


def _make_cache(folder: Path, names: Iterable[str]) -> Path | None:
    """The providers make only the last folder of a path themselves; None where nothing can be kept."""
    if folder.name == Provider.CPU.value:
        return None  # it compiles nothing
    try:
        for name in names:
            (folder / name).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logger.warning("compiled graphs cannot be kept, so every start compiles them again: %s", error)
        return None
    return folder


def open_sessions(
    entries: Iterable[CatalogueEntry],
    thread_widths: Sequence[int],
    provider: Provider,
    *,
    batch_size_max: int,
    cache_dir: Path | None = None,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _label: None,
) -> Mapping[SessionKey, Session]:
    """Load every entry at every thread width; `progress` gets (done, total, label).

    Providers that compile graphs keep the result under `cache_dir` (None: nowhere), in a folder for each provider
    and variant.

    Raises:
        SessionError: a graph that cannot be loaded.
        StoreError: a file that changed since the catalogue was opened.
    """
    route_logs()
    listed = list(entries)
    cache = None if cache_dir is None else _make_cache(cache_dir / provider.value, [e.variant.name for e in listed])
    total = len(listed) * len(thread_widths)
    sessions: dict[SessionKey, Session] = {}
    for entry in listed:
        model = entry.read_model()
        for threads in thread_widths:
            progress(len(sessions), total, f"{entry.variant.name}, {threads} threads")
            options = SessionOptions(threads, batch_size_max, cache_dir=cache)
            sessions[entry.variant.name, threads] = Session(model, entry.variant, options, provider)
    progress(total, total, "loaded")
    return sessions
