"""The sessions that ONNX Runtime runs, and the options that all of them get, with the reasons.

A `Session` is one variant's graph at one thread width. It takes and gives arrays and refuses any other shape or
type than its own. It is safe to run from several threads at once: with one thread a run happens wholly on the
calling thread. So all workers share one session per (variant, thread width). OpenVINO runs on threads of its own: its
sessions are told how many runs go on side by side.

Sessions of one variant at two widths do not share weights: the Python API can hand in common initialisers, but
the CPU provider copies each into its own blocked layout, so the common copy came on top (measured: 32 MiB of
weights at two widths take 74 MiB without it and 103 MiB with it).

`providers.py` says where a session can run, `provider_options.py` what each provider is told, and `bound_runs.py`
how a GPU is given its input. These three and this file are all that knows ONNX Runtime. TensorRT's options follow its
documentation and are checked as data only.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import logging
import math
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnxruntime

from model_store.catalogue import CatalogueEntry
from model_store.manifest import SAFE_SUMS, ModelVariant
from service.runtime.bound_runs import BoundRuns
from service.runtime.cores import cores_of_run, held_to
from service.runtime.machine import lacks_vnni
from service.runtime.precisions import refusal
from service.runtime.process_memory import give_back
from service.runtime.provider_options import INPUT_NAME, provider_options
from service.runtime.providers import ENABLED_BY, ORT_NAMES, Provider, SessionOptions

logger = logging.getLogger(__name__)

OUTPUT_NAME = "probabilities"
TOP_NAMES = ("top_probabilities", "top_classes")
_OUTPUTS = (OUTPUT_NAME, *TOP_NAMES)

Probabilities: TypeAlias = npt.NDArray[np.float32]
Top: TypeAlias = tuple[tuple[int, float], ...]
"""One image's most probable classes as (index, probability), falling; of equal ones the lower index first."""
SessionKey: TypeAlias = tuple[str, int]
"""Variant name and thread width."""


class SessionError(Exception):
    """A graph that cannot be loaded, or is not what its manifest says. The message names the variant."""


def available_providers() -> tuple[str, ...]:
    """ONNX Runtime's names of the providers that the installed package was built with."""
    return tuple(onnxruntime.get_available_providers())


def runtime_name(provider: Provider, *, graphs: bool = False) -> str:
    """Library, version and provider, and whether graphs are replayed, as profiles record what they were measured on."""
    return f"onnxruntime {onnxruntime.__version__} {provider.value}{' graphs' if graphs else ''}"


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
    # The runtime's own threads on the cores that the caller of a run leaves them, see `cores.py`; counted from 1.
    if cores := cores_of_run(options.threads):
        others = ";".join(str(core + 1) for core in cores[1:])
        chosen.add_session_config_entry("session.intra_op_thread_affinities", others)
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


# cuDNN's word for a convolution that its first rule has no kernel for: ONNX Runtime then asks for another.
_UNPLANNED = "No execution plans support the graph"
_SEVERITIES = (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)


def _log(severity: int, _category: str, logid: str, location: str, message: str) -> None:
    if _UNPLANNED in message:
        severity = 0
    logger.log(_SEVERITIES[severity], "onnxruntime %s (%s): %s", logid, location, message)


@functools.cache
def _find_cuda() -> None:
    """Load the CUDA libraries that pip installed beside ONNX Runtime, which its provider does not look for there."""
    if hasattr(onnxruntime, "preload_dlls"):
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            onnxruntime.preload_dlls()
        if text := said.getvalue().strip():
            logger.info("onnxruntime.preload_dlls: %s", text)


def _load(
    model: bytes, variant: ModelVariant, options: SessionOptions, provider: Provider
) -> tuple[onnxruntime.InferenceSession, bool]:
    """The loaded graph, and whether its runs are recorded as CUDA graphs."""

    def load(chosen: SessionOptions) -> onnxruntime.InferenceSession:
        session = onnxruntime.InferenceSession(
            model,
            _session_options(chosen),
            providers=provider_options(provider, variant, chosen),
            enable_fallback=0,  # it would print, and run on another provider than the profile is for
        )
        # The wrapper keeps the whole file, for a re-creation that never happens here; the weights are copied.
        session._model_bytes = None  # noqa: SLF001  no public way to let go of it
        return session

    try:
        if provider is not Provider.CUDA or not options.graphs:
            return load(options), False
        try:
            return load(options), True
        except Exception as error:  # noqa: BLE001  as below
            # ONNX Runtime records a graph only if every node is on the GPU, which those of int8 are not.
            logger.info("%s runs without a CUDA graph: %s", variant.name, error)
            return load(replace(options, graphs=False)), False
    except Exception as error:  # ONNX Runtime's exception types have no common base
        raise SessionError(f"{variant.name} cannot be loaded on {provider}: {error}") from error


class Session:
    """One variant's graph, loaded, on one provider, at one thread width."""

    def __init__(
        self, model: bytes, variant: ModelVariant, options: SessionOptions, provider: Provider = Provider.CPU
    ) -> None:
        """Load `model`, whose sha256 was verified by the catalogue.

        Raises:
            SessionError: ONNX Runtime cannot load it, its input or output is not what `variant` says, or the provider
                would compute in another precision.
        """
        if min(options.threads, options.batch_size_max, options.side_by_side) < 1:
            raise ValueError(f"threads, batch_size_max and side_by_side must be 1 or more, got {options}")
        self.variant = variant
        self.threads = options.threads
        self._cores = cores_of_run(options.threads)
        self._check_precision(provider)
        _share_arena()
        if not provider.on_cpu:
            _find_cuda()
        self._ort, graphs = _load(model, variant, options, provider)
        self._check_graph()
        self._check_sums()
        self.provider = self._provider_in_use(provider)
        self._check_precision(self.provider)
        self._bound: BoundRuns | None = None
        self.runtime = runtime_name(self.provider, graphs=graphs)
        if self.provider.fixed_batches and options.bound:
            chosen = replace(options, graphs=graphs)
            sizes = {1: self._ort} | {n: _load(model, variant, chosen, provider)[0] for n in options.batch_sizes[1:]}
            self._bound = BoundRuns(sizes, _OUTPUTS, graphs=graphs, device_id=options.device_id)

    def _check_precision(self, provider: Provider) -> None:
        if (why := refusal(provider, self.variant.precision)) is not None:
            raise SessionError(f"{self.variant.name} cannot be run: {why}")

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
        if ORT_NAMES[wanted] in in_use:
            return wanted
        logger.warning(
            "%s was asked for on %s and runs on %s; to enable it, %s",
            self.variant.name, wanted, ", ".join(in_use), ENABLED_BY[wanted],
        )  # fmt: skip
        return Provider.CPU

    def run(self, images: npt.NDArray[np.uint8]) -> Probabilities:
        """Class probabilities, float32 [batch, classes], of `images`, uint8 [batch, resolution, resolution, 3].

        Raises:
            ValueError: another shape or type.
            FloatingPointError: the network gave something that is no probability (NaN or infinity).
        """
        return self.classify(images, 1)[0]

    def shrink_arena(self) -> None:
        """Run once, and have the memory freed that runs of all sessions left behind and none is using."""
        options = onnxruntime.RunOptions()
        if self.provider is Provider.CPU:
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        side = self.variant.resolution
        self._ort.run([OUTPUT_NAME], {INPUT_NAME: np.zeros((1, side, side, 3), np.uint8)}, options)

    def rows(self, images: int) -> int:
        """How many rows a batch of `images` images has when it is run: `classify` is quickest if they are there."""
        return images if self._bound is None else self._bound.rows(images)

    def classify(
        self, images: npt.NDArray[np.uint8], k: int, count: int | None = None
    ) -> tuple[Probabilities, tuple[Top, ...]]:
        """As `run`, with the `k` most probable classes of each image; of the first `count` images alone, if given.

        Raises:
            ValueError, FloatingPointError: as `run`.
        """
        side = self.variant.resolution
        if images.dtype != np.uint8 or images.shape[1:] != (side, side, 3) or not len(images):
            raise ValueError(
                f"{self.variant.name} takes uint8 [batch, {side}, {side}, 3], got {images.dtype} {list(images.shape)}"
            )
        with held_to(self._cores):
            outputs = self._ort.run(_OUTPUTS, {INPUT_NAME: images}) if self._bound is None else self._bound.run(images)
        probabilities: Probabilities = outputs[0][:count]
        highest, classes = outputs[1][:count].tolist(), outputs[2][:count].tolist()
        # Softmax divides by a sum: if one score is no number, no probability of that image is one.
        for row in highest:
            if not math.isfinite(row[0]):
                raise FloatingPointError(f"{self.variant.name} gave probabilities that are not finite")
        if k > self._sorted_max:
            return probabilities, tuple(top_classes(row, k) for row in probabilities)
        rows = zip(classes, highest, strict=True)
        return probabilities, tuple([tuple(zip(indices[:k], values[:k], strict=True)) for indices, values in rows])


def warm_up(session: Session, batch_sizes: Iterable[int]) -> None:
    """Run once at each size, so that no request pays for a first time. Not for GPUs, which warm up by thread."""
    side = session.variant.resolution
    for size in batch_sizes:
        session.classify(np.zeros((size, side, side, 3), np.uint8), 1)


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
        model, _session_options(SessionOptions(threads, 1)), providers=[ORT_NAMES[Provider.CPU]]
    )
    names = [output.name for output in session.get_outputs()]

    def run(images: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
        return dict(zip(names, session.run(names, {INPUT_NAME: images}), strict=True))

    return run


def _make_cache(folder: Path, keys: Mapping[str, str]) -> Path | None:
    """A folder for each variant and the key of its graph, and none of its other graphs; None where nothing can be kept.

    The providers make only the last folder of a path themselves, and tell graphs of other weights apart or not.
    """
    if folder.name == Provider.CPU.value:
        return None  # it compiles nothing
    try:
        for name, key in keys.items():
            (folder / name / key).mkdir(parents=True, exist_ok=True)
            for other in (folder / name).iterdir():
                if other.name != key:
                    shutil.rmtree(other) if other.is_dir() else other.unlink()
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
    workers: int = 1,
    cache_dir: Path | None = None,
    graphs: bool = False,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _label: None,
) -> Mapping[SessionKey, Session]:
    """Load every entry at every thread width, for `workers` that share them; `progress` gets (done, total, label).

    With `graphs` a GPU replays recorded ones. Providers that compile graphs keep the result under `cache_dir` (None:
    nowhere), in a folder for each provider, variant and content of its graph.

    Raises:
        SessionError: a graph that cannot be loaded.
        StoreError: a file that changed since the catalogue was opened.
    """
    route_logs()
    listed = list(entries)
    keys = {entry.variant.name: entry.model_sha256[:16] for entry in listed}
    cache = None if cache_dir is None else _make_cache(cache_dir / provider.value, keys)
    total = len(listed) * len(thread_widths)
    sessions: dict[SessionKey, Session] = {}
    for entry in listed:
        model = entry.read_model()
        for threads in thread_widths:
            progress(len(sessions), total, f"{entry.variant.name}, {threads} threads")
            together = max(1, workers // threads)
            name = entry.variant.name
            options = SessionOptions(
                threads, batch_size_max, together, cache_dir=cache, graph_key=keys[name], graphs=graphs
            )
            sessions[name, threads] = Session(model, entry.variant, options, provider)
            # Loading takes about as much again as is kept (lite2: 52 MiB of 104), which the next one would add to.
            give_back()
    progress(total, total, "loaded")
    return sessions
