"""Which providers there are to choose from, and for which batch sizes they prepare."""

from __future__ import annotations

import logging

import pytest

from service.runtime.providers import Provider, SessionOptions, batch_sizes_up_to, candidates

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
OPENVINO = "OpenVINOExecutionProvider"


@pytest.mark.parametrize(("requested", "available", "expected"), [
    (Provider.AUTO, [CPU], [Provider.CPU]),
    (Provider.AUTO, ["AzureExecutionProvider", CPU], [Provider.CPU]),
    (Provider.AUTO, [CUDA, CPU], [Provider.CUDA, Provider.CPU]),
    (Provider.AUTO, [OPENVINO, CPU], [Provider.OPENVINO, Provider.CPU]),
    (Provider.AUTO, [TENSORRT, CUDA, CPU], [Provider.CUDA, Provider.CPU]),
    (Provider.CPU, [CUDA, CPU], [Provider.CPU]),
    (Provider.CUDA, [CUDA, CPU], [Provider.CUDA]),
    (Provider.TENSORRT, [TENSORRT, CUDA, CPU], [Provider.TENSORRT]),
    (Provider.OPENVINO, [OPENVINO, CPU], [Provider.OPENVINO]),
])  # fmt: skip
def test_what_is_installed_decides(requested, available, expected, caplog):
    """`auto` may be any but TensorRT, a named one is taken if it is there; neither logs a warning."""
    assert candidates(requested, available) == tuple(expected)
    assert not caplog.records


@pytest.mark.parametrize(("requested", "enabled_by"), [
    (Provider.CUDA, "phiserve[gpu]"),
    (Provider.TENSORRT, "tensorrt"),
    (Provider.OPENVINO, "phiserve[openvino]"),
])  # fmt: skip
def test_a_missing_provider_falls_back_and_the_log_says_what_enables_it(requested, enabled_by, caplog):
    """A provider asked for by name but not available gives the CPU and one warning with the remedy."""
    assert candidates(requested, [CPU]) == (Provider.CPU,)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert enabled_by in record.getMessage()


@pytest.mark.parametrize(
    ("size_max", "sizes", "on_gpu"),
    [
        (1, (1,), (1,)),
        (2, (1, 2), (1, 2)),
        (6, (1, 2, 4, 6), (1, 4, 6)),
        (8, (1, 2, 4, 8), (1, 4, 8)),
        (33, (1, 2, 4, 8, 16, 32, 33), (1, 4, 16, 33)),
    ],
)
def test_batch_sizes_grow_up_to_the_bound(size_max, sizes, on_gpu) -> None:
    """Powers of two are measured and the bound itself; on a GPU powers of four, since each costs seconds."""
    assert batch_sizes_up_to(size_max) == sizes
    assert SessionOptions(1, size_max).batch_sizes == on_gpu


def test_gpus_leave_the_cores_to_others():
    """Runs on the CPU and under OpenVINO take the cores that decoding needs, those on a GPU do not."""
    assert [provider for provider in Provider if provider.on_cpu] == [Provider.CPU, Provider.OPENVINO]
