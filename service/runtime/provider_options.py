"""What each execution provider is told, with the reason: ONNX Runtime's option names and values, as text.

Data only. The CPU provider has no options of its own; those of its sessions are in `session.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

from model_store.manifest import ModelVariant
from service.runtime.providers import ORT_NAMES, Provider, SessionOptions

INPUT_NAME = "image"


def provider_options(
    provider: Provider, variant: ModelVariant, options: SessionOptions
) -> list[tuple[str, dict[str, str]]]:
    """ONNX Runtime's provider list, most wanted first; each later one takes the nodes that those before cannot."""
    return [(ORT_NAMES[link], maker(variant, options)) for link, maker in _CHAINS[provider]]


def _cuda_options(variant: ModelVariant, options: SessionOptions) -> dict[str, str]:
    # Named only if it is another one: ONNX Runtime then looks for a provider of that device elsewhere, and warns.
    device = {"device_id": str(options.device_id)} if options.device_id else {}
    return {
        **device,
        # Which of cuDNN's rules names the kernels. EXHAUSTIVE times nothing, it is another rule: 1.8 times slower in
        # fp16 (B0, batch 32, H200). DEFAULT plans each convolution anew at every run, 14 times slower and more.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "1",
        # Tensor cores read channels last: a fifth faster in fp16 at batch 32. In fp32 nothing is gained, and planning
        # takes five times as long.
        "prefer_nhwc": "1" if variant.precision == "fp16" else "0",
        # fp32 means fp32: TensorFloat-32 would keep ten bits of the fraction, at the speed of fp16, which is there too.
        "use_tf32": "0",
        # A run is two hundred small kernels: replayed as one graph, no time passes between them (`bound_runs.py`).
        "enable_cuda_graph": "1" if options.graphs and options.bound else "0",
        # Many variants share one GPU: doubling the arena, the default, would leave them no room.
        "arena_extend_strategy": "kSameAsRequested",
        # Copies and kernels in one stream need no synchronisation between them; batches are copied in one piece.
        "do_copy_in_default_stream": "1",
        **dict(options.overrides),
    }


def _tensorrt_options(variant: ModelVariant, options: SessionOptions) -> dict[str, str]:
    def shape(batch_size: int) -> str:
        return f"{INPUT_NAME}:{batch_size}x{variant.resolution}x{variant.resolution}x3"

    chosen = {
        "device_id": str(options.device_id),
        # Half precision only where the variant promises nothing else: fp32 means fp32.
        "trt_fp16_enable": "True" if variant.precision == "fp16" else "False",
        # One engine for every batch size; without a range each new batch size would build another engine. It is tuned
        # for the largest, which is run when it matters most. All three shapes, or none of them counts.
        "trt_profile_min_shapes": shape(1),
        "trt_profile_opt_shapes": shape(options.batch_size_max),
        "trt_profile_max_shapes": shape(options.batch_size_max),
        # A recorded graph reads the addresses and the shape that it was recorded with, and answers with the first
        # picture for ever if a run brings its own: this one session is for all batch sizes, between no fixed buffers.
        "trt_cuda_graph_enable": "False",
    }
    if options.cache_dir is not None:
        # Engines take minutes to build. Their names tell GPUs, versions and networks apart, but not weights: without
        # the graph's own folder a network that was trained on would answer as it did before.
        chosen |= {
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(options.graph_folder(variant.name)),
            # How long kernels take on this GPU: of use to every other graph, and to the next weights of this one.
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": str(options.cache_dir),
        }
    return chosen


def _cuda_options_beside_tensorrt(variant: ModelVariant, options: SessionOptions) -> dict[str, str]:
    # For what TensorRT leaves. Told to record a graph, CUDA refuses a session in which any node is not its own.
    return _cuda_options(variant, replace(options, graphs=False))


def _openvino_options(variant: ModelVariant, options: SessionOptions) -> dict[str, str]:
    properties = {
        # Runs that share a stream take turns: with one for two workers a second core did nothing.
        "NUM_STREAMS": str(options.side_by_side),
        # The plan says how many cores a run takes; OpenVINO would take them all. Shared out among the streams.
        "INFERENCE_NUM_THREADS": str(options.threads * options.side_by_side),
        # It counts its cores from the first for each graph anew: two workers on two variants shared one core.
        "ENABLE_CPU_PINNING": "NO",
        # fp32 means fp32: by itself OpenVINO chooses bfloat16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if variant.precision == "bf16" else "f32",
    }
    if options.cache_dir is not None:
        properties["CACHE_DIR"] = str(options.graph_folder(variant.name))
    # ONNX Runtime's own options for these are deprecated, and its `precision` refuses BF16 for a CPU.
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": properties})}


def _no_options(_variant: ModelVariant, _options: SessionOptions) -> dict[str, str]:
    return {}


_CPU = (Provider.CPU, _no_options)
_CHAINS: dict[Provider, tuple[tuple[Provider, Callable[[ModelVariant, SessionOptions], dict[str, str]]], ...]] = {
    Provider.CPU: (_CPU,),
    Provider.CUDA: ((Provider.CUDA, _cuda_options), _CPU),
    Provider.TENSORRT: ((Provider.TENSORRT, _tensorrt_options), (Provider.CUDA, _cuda_options_beside_tensorrt), _CPU),
    Provider.OPENVINO: ((Provider.OPENVINO, _openvino_options), _CPU),
}
