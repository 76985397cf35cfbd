"""Which precisions a provider really computes in: any other is refused, since it would run as something else unsaid.

Knows no variant and loads nothing but, for bf16, OpenVINO's word for what this processor has.
"""

from __future__ import annotations

from model_store.manifest import Precision
from service.runtime.openvino_device import NotAskedError, cpu_capabilities
from service.runtime.providers import Provider

_BF16_ELSEWHERE = "serve the variant's fp32, fp16 or int8 form here"


def refusal(provider: Provider, precision: Precision) -> str | None:
    """Why `provider` cannot run a graph of `precision` on this machine, and what would work; None if it can."""
    if precision == "bf16":
        return _refusal_of_bf16(provider)
    if precision == "int8" and provider is Provider.TENSORRT:
        # Its parser wants zero points of zero, and activations of ours are unsigned bytes, the pixels' not even
        # centred. What it does not take goes node by node to CUDA, each stretch between with an engine of its own.
        return "TensorRT takes no int8 with zero points, as these graphs have them; serve the variant's fp16 form"
    return None


def _refusal_of_bf16(provider: Provider) -> str | None:
    if provider is not Provider.OPENVINO:
        return (
            f"bf16 is computed under OpenVINO alone and this is {provider}; install phiserve[openvino] in place of "
            f"phiserve[cpu] on a processor with AVX512-BF16 or AMX, or {_BF16_ELSEWHERE}"
        )
    try:
        capabilities = cpu_capabilities()
    except NotAskedError as error:
        return f"whether this processor has bf16 cannot be found out: {error}; {_BF16_ELSEWHERE}"
    if "BF16" in capabilities:
        return None
    return (
        f"OpenVINO computes {', '.join(sorted(capabilities & _FORMATS))} on this processor and would run bf16 as fp32; "
        f"it needs AVX512-BF16 or AMX: {_BF16_ELSEWHERE}"
    )


_FORMATS = frozenset({"FP32", "FP16", "BF16", "INT8"})
"""Of the capabilities those that are number formats."""
