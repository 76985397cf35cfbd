"""OpenVINO itself where it is installed, as `make openvino-test` does in its own environment; skipped elsewhere."""

from __future__ import annotations

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from model_store.builder import BuildRequest, build_variant
from model_store.manifest import ModelVariant
from model_store.sources import from_untrained
from service.runtime.openvino_device import NotAskedError, cpu_capabilities
from service.runtime.precisions import refusal
from service.runtime.providers import ORT_NAMES, Provider, SessionOptions
from service.runtime.session import Session, SessionError, available_providers

HAS_OPENVINO = ORT_NAMES[Provider.OPENVINO] in available_providers()
needs_openvino = pytest.mark.skipif(not HAS_OPENVINO, reason="this ONNX Runtime has no OpenVINO")
BATCH = 4


@functools.cache
def built(float_type: str) -> tuple[bytes, ModelVariant]:
    content = build_variant(BuildRequest("b0", from_untrained("b0", 1), float_type=float_type))
    return content.files["model.onnx"], content.manifest.variant


def pictures(seed: int, count: int = BATCH) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 224, 224, 3), np.uint8)


@pytest.mark.skipif(HAS_OPENVINO, reason="this ONNX Runtime has OpenVINO")
def test_without_openvino_it_cannot_be_asked():
    """The CPU package brings no such library: the error says what is missing."""
    with pytest.raises(NotAskedError, match="libopenvino_c"):
        cpu_capabilities()


@needs_openvino
def test_openvino_says_what_it_computes():
    """The library that the package brings is found and answers; every processor has fp32."""
    assert "FP32" in cpu_capabilities()


@needs_openvino
@pytest.mark.parametrize("options", [SessionOptions(1, BATCH), SessionOptions(2, BATCH), SessionOptions(1, BATCH, 2)])
def test_openvino_answers_as_the_cpu_provider(options):
    """Its options are taken, and with any number of threads and streams it gives the same probabilities."""
    cpu, openvino = (Session(*built("fp32"), options, provider) for provider in (Provider.CPU, Provider.OPENVINO))
    assert openvino.provider is Provider.OPENVINO
    for count in (1, BATCH, 2):
        batch = pictures(count, count)
        assert np.allclose(openvino.run(batch), cpu.run(batch), rtol=1e-3, atol=1e-6)


@needs_openvino
def test_runs_side_by_side_give_what_each_gives_alone():
    """Callers that share a session's streams get their own answers."""
    session = Session(*built("fp32"), SessionOptions(1, BATCH, 2), Provider.OPENVINO)
    batches = [pictures(seed) for seed in range(6)]
    alone = [session.run(batch) for batch in batches]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(session.run, batches))
    assert np.allclose(alone, together, rtol=1e-5, atol=1e-7)


@needs_openvino
def test_compiled_graphs_are_kept_where_they_are_told_to_be(tmp_path):
    """What was compiled lies in the variant's folder, and a second session is made from it."""
    (tmp_path / "b0").mkdir()
    options = SessionOptions(1, BATCH, cache_dir=tmp_path)
    Session(*built("fp32"), options, Provider.OPENVINO)
    (blob,) = (tmp_path / "b0").iterdir()
    assert blob.stat().st_size > 0
    Session(*built("fp32"), options, Provider.OPENVINO)
    assert list((tmp_path / "b0").iterdir()) == [blob]


@needs_openvino
def test_bf16_is_bf16_or_refused():
    """Where the processor has it answers differ from fp32's by its rounding, and elsewhere nothing is loaded."""
    if refusal(Provider.OPENVINO, "bf16") is not None:
        with pytest.raises(SessionError, match="would run bf16 as fp32"):
            Session(*built("bf16"), SessionOptions(1, BATCH), Provider.OPENVINO)
        return
    exact, rounded = (
        Session(*built(float_type), SessionOptions(1, BATCH), Provider.OPENVINO).run(pictures(0))
        for float_type in ("fp32", "bf16")
    )
    assert not np.array_equal(exact, rounded)
    assert np.allclose(exact, rounded, atol=0.05)
