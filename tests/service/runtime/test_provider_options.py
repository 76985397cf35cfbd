"""What each provider is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from service.runtime.provider_options import provider_options
from service.runtime.providers import Provider, SessionOptions
from tests.fakes.colour_models import variant_of

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"


@pytest.mark.parametrize(("provider", "chain"), [
    (Provider.CPU, [CPU]),
    (Provider.CUDA, [CUDA, CPU]),
    (Provider.TENSORRT, [TENSORRT, CUDA, CPU]),
    (Provider.OPENVINO, [OPENVINO, CPU]),
])  # fmt: skip
def test_every_chain_ends_on_the_cpu_and_holds_only_strings(provider, chain, tmp_path):
    """Each provider is followed by those that take what it cannot; options are strings, as the C API wants them."""
    options = provider_options(provider, variant_of(), SessionOptions(2, 8, cache_dir=tmp_path))
    assert [name for name, _ in options] == chain
    assert all(isinstance(text, str) for _, values in options for pair in values.items() for text in pair)


def test_tensorrt_builds_one_engine_for_all_batch_sizes():
    """The shape profile spans batch 1 to the largest, at the variant's resolution."""
    variant = variant_of("b0", 224)
    (_, options), *_ = provider_options(Provider.TENSORRT, variant, SessionOptions(1, 8))
    assert options["trt_profile_min_shapes"] == "image:1x224x224x3"
    assert options["trt_profile_max_shapes"] == "image:8x224x224x3"
    assert options["trt_fp16_enable"] == "False"


def test_tensorrt_keeps_engines_by_weights_and_timings_for_all():
    """An engine's own name does not tell weights apart, so its folder does; how long kernels take, all graphs share."""
    kept = SessionOptions(1, 8, cache_dir=Path("/cache"), graph_key="1beb64f1401c8d33")
    (_, options), *_ = provider_options(Provider.TENSORRT, variant_of("b0"), kept)
    assert options["trt_engine_cache_path"] == "/cache/b0/1beb64f1401c8d33"
    assert options["trt_timing_cache_path"] == "/cache"
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "True"


def test_nothing_is_recorded_where_tensorrt_runs():
    """Its one session takes all batch sizes at changing addresses; CUDA beside it would refuse to load half a graph."""
    (_, tensorrt), (_, cuda), _ = provider_options(Provider.TENSORRT, variant_of(), SessionOptions(1, 8, graphs=True))
    assert tensorrt["trt_cuda_graph_enable"] == "False"
    assert cuda["enable_cuda_graph"] == "0"


def test_without_a_cache_folder_nothing_is_cached():
    """No provider is told to write anywhere unless a folder was given."""
    for provider in (Provider.CUDA, Provider.TENSORRT, Provider.OPENVINO):
        for _, options in provider_options(provider, variant_of(), SessionOptions(1, 1)):
            assert not [word for word in json.dumps(options).split('"') if "cache" in word.lower()]


def openvino_properties(precision: str, options: SessionOptions) -> dict[str, str]:
    """What OpenVINO is told of its CPU; nothing is told twice, by an option of ONNX Runtime's too."""
    variant = replace(variant_of(), precision=precision)
    (_, chosen), _ = provider_options(Provider.OPENVINO, variant, options)
    assert chosen.keys() == {"device_type", "load_config"}
    ((device, properties),) = json.loads(chosen["load_config"]).items()
    assert device == chosen["device_type"] == "CPU"
    return properties


@pytest.mark.parametrize(("width", "together", "threads"), [(1, 1, "1"), (1, 4, "4"), (3, 2, "6")])
def test_openvino_keeps_to_the_planned_width_for_each_of_the_runs_side_by_side(width, together, threads):
    """Each run has a stream, so that none waits for another, and its own threads; no stream is tied to cores."""
    properties = openvino_properties("fp32", SessionOptions(width, 1, together))
    assert properties["NUM_STREAMS"] == str(together)
    assert properties["INFERENCE_NUM_THREADS"] == threads
    assert properties["ENABLE_CPU_PINNING"] == "NO"


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("int8", "f32"), ("fp16", "f32"), ("bf16", "bf16")])
def test_openvino_rounds_to_bfloat16_only_what_says_so(precision, hint):
    """Left alone OpenVINO computes in bfloat16 wherever the processor has it."""
    assert openvino_properties(precision, SessionOptions(1, 1))["INFERENCE_PRECISION_HINT"] == hint


def test_openvino_keeps_what_it_compiled_with_the_variant():
    """The folder is that of the variant's graph; the name is OpenVINO's, in capitals."""
    properties = openvino_properties("fp32", SessionOptions(1, 1, cache_dir=Path("/cache"), graph_key="12ab"))
    assert properties["CACHE_DIR"] == "/cache/tiny/12ab"


def test_the_device_is_passed_on():
    """A GPU session runs on the GPU it was given."""
    (_, options), _ = provider_options(Provider.CUDA, variant_of(), SessionOptions(1, 1, device_id=2))
    assert options["device_id"] == "2"


def test_a_graph_is_recorded_only_between_fixed_buffers():
    """A CUDA graph replays addresses, so without buffers that stay it is off, whatever was asked for."""
    graphs = {}
    for bound, wanted in ((True, True), (True, False), (False, True)):
        options = SessionOptions(1, 1, bound=bound, graphs=wanted)
        (_, chosen), _ = provider_options(Provider.CUDA, variant_of(), options)
        graphs[bound, wanted] = chosen["enable_cuda_graph"]
    assert graphs == {(True, True): "1", (True, False): "0", (False, True): "0"}


def test_options_can_be_replaced_to_measure_them():
    """An override stands in place of what would have been chosen, and nothing else changes."""
    plain = SessionOptions(1, 1)
    (_, chosen), _ = provider_options(Provider.CUDA, variant_of(), plain)
    (_, other), _ = provider_options(Provider.CUDA, variant_of(), replace(plain, overrides=(("use_tf32", "1"),)))
    assert other == {**chosen, "use_tf32": "1"}


def test_tensorrt_computes_in_the_precision_of_the_variant():
    """Half precision is allowed for fp16 variants only: fp32 means fp32."""
    flags = {}
    for precision in ("fp32", "fp16"):
        variant = replace(variant_of(), precision=precision)
        (_, options), *_ = provider_options(Provider.TENSORRT, variant, SessionOptions(1, 1))
        flags[precision] = options["trt_fp16_enable"]
    assert flags == {"fp32": "False", "fp16": "True"}
