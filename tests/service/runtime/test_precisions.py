"""precisions.py: nothing runs in another precision than its name says."""

from __future__ import annotations

import pytest

from service.runtime import precisions
from service.runtime.openvino_device import NotAskedError
from service.runtime.precisions import refusal
from service.runtime.providers import Provider

REAL = [provider for provider in Provider if provider is not Provider.AUTO]


@pytest.fixture
def processor(monkeypatch):
    """Have OpenVINO name these capabilities, or fail so."""

    def has(*capabilities: str, error: str | None = None) -> None:
        def answer() -> frozenset[str]:
            if error is not None:
                raise NotAskedError(error)
            return frozenset(capabilities)

        monkeypatch.setattr(precisions, "cpu_capabilities", answer)

    return has


def test_bf16_runs_where_openvino_says_so(processor):
    """OpenVINO on a processor with bfloat16 is the one place for it; every other provider would compute fp32."""
    processor("FP32", "BF16", "INT8", "EXPORT_IMPORT")
    assert [provider for provider in REAL if refusal(provider, "bf16") is None] == [Provider.OPENVINO]


@pytest.mark.parametrize("provider", [Provider.CPU, Provider.CUDA, Provider.TENSORRT])
def test_elsewhere_the_refusal_names_what_would_work(provider):
    """The reader learns the package, the processor and the other forms of the variant."""
    why = refusal(provider, "bf16")
    for remedy in ("phiserve[openvino]", "AVX512-BF16 or AMX", "fp32, fp16 or int8", provider.value):
        assert remedy in why


def test_without_bf16_openvino_is_not_trusted_with_it(processor):
    """OpenVINO takes bf16 on any processor and computes fp32 where it lacks it: refused, with what there is."""
    processor("FP32", "INT8", "BIN", "EXPORT_IMPORT")
    why = refusal(Provider.OPENVINO, "bf16")
    assert "computes FP32, INT8 on this processor" in why
    assert "AVX512-BF16 or AMX" in why


def test_what_cannot_be_found_out_is_refused(processor):
    """No answer is no permission, and the reason is passed on."""
    processor(error="the library is gone")
    assert "the library is gone" in refusal(Provider.OPENVINO, "bf16")


def test_tensorrt_takes_no_int8():
    """Its parser takes no zero points but zero, which int8 graphs have: left to fp16 there, and to others here."""
    assert [provider for provider in REAL if refusal(provider, "int8") is not None] == [Provider.TENSORRT]
    assert "fp16" in refusal(Provider.TENSORRT, "int8")


@pytest.mark.parametrize("provider", REAL)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_other_precisions_run_everywhere(provider, precision):
    """fp32 and fp16 are in the graph itself, so every provider computes them."""
    assert refusal(provider, precision) is None
