"""What OpenVINO says that it can compute on this processor: asked of the library itself, through its C interface.

ONNX Runtime hands no such question on, and OpenVINO takes any precision it is told: one that the processor does not
have becomes fp32 without a word. Processor flags are no answer either, since it has kernels of its own for each.
Asks once a process; loads no graph.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
import importlib.util
from pathlib import Path

_OK = 0


class NotAskedError(Exception):
    """OpenVINO could not be asked. The message says why."""


@functools.cache
def cpu_capabilities() -> frozenset[str]:
    """OpenVINO's names for what it computes on the CPU without emulation, such as FP32, INT8 and BF16.

    Raises:
        NotAskedError: its library is not there, or gives no answer.
    """
    library = _library()
    core, answer = ctypes.c_void_p(), ctypes.c_char_p()
    if library.ov_core_create(ctypes.byref(core)) != _OK:
        raise NotAskedError("OpenVINO does not start")
    try:
        status = library.ov_core_get_property(core, b"CPU", b"OPTIMIZATION_CAPABILITIES", ctypes.byref(answer))
        if status != _OK or answer.value is None:
            raise NotAskedError(f"OpenVINO gives no capabilities of the CPU (status {status})")
        said = answer.value.decode()
        library.ov_free(answer)
    finally:
        library.ov_core_free(core)
    return frozenset(said.split())


def _library() -> ctypes.CDLL:
    """The library that ONNX Runtime's package brings, or else the system's."""
    spec = importlib.util.find_spec("onnxruntime")
    folders = [] if spec is None else [Path(folder) / "capi" for folder in spec.submodule_search_locations or ()]
    # Beside the plain names lie those with a version, which are links or copies of the same library.
    names = [str(path) for folder in folders for path in sorted(folder.glob("libopenvino_c.*"))]
    if (of_system := ctypes.util.find_library("openvino_c")) is not None:
        names.append(of_system)
    if not names:
        raise NotAskedError("there is no libopenvino_c beside ONNX Runtime")
    try:
        library = ctypes.CDLL(names[0])
    except OSError as error:
        raise NotAskedError(str(error)) from error
    library.ov_core_create.argtypes = [ctypes.POINTER(ctypes.c_void_p)]
    library.ov_core_free.argtypes = [ctypes.c_void_p]
    library.ov_core_free.restype = None
    text = ctypes.POINTER(ctypes.c_char_p)
    library.ov_core_get_property.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, text]
    library.ov_free.argtypes = [ctypes.c_char_p]
    library.ov_free.restype = None
    return library
