"""Pins a buffer into physical memory, so that a GPU copies straight from it: without, the driver copies it first.

Uses the CUDA runtime that ONNX Runtime has loaded, by its C interface, since ONNX Runtime's Python interface has no
call for it. Where there is none, buffers stay as they are and copies take longer.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

logger = logging.getLogger(__name__)

# By their names alone: found if the process has them already, or if the system knows them.
_LIBRARIES = ("libcudart.so.13", "libcudart.so.12")
_FOR_ALL_DEVICES = 1


def page_lock(buffer: npt.NDArray[np.uint8]) -> bool:
    """Pin the memory of `buffer`, which must own it, until the array is gone; False where that cannot be done."""
    runtime = _cuda_runtime()
    if runtime is None:
        return False
    address = ctypes.c_void_p(buffer.ctypes.data)
    status = runtime.cudaHostRegister(address, ctypes.c_size_t(buffer.nbytes), ctypes.c_uint(_FOR_ALL_DEVICES))
    if status != 0:
        logger.info("a buffer of %d bytes could not be page-locked (CUDA error %d)", buffer.nbytes, status)
        return False
    # At the end of the process the CUDA runtime may be gone before this array, and the memory goes anyhow.
    weakref.finalize(buffer, runtime.cudaHostUnregister, address).atexit = False
    return True


@functools.cache
def _cuda_runtime() -> Any:
    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
