"""Reads a checkpoint file into named numpy arrays without torch and without executing anything in it.

Three formats, told apart by their first bytes: safetensors, torch's zip archive (since 1.6) and torch's legacy
sequence of pickles. Sizes and strides are checked against the bytes that are there before an array is made.
Which names and shapes a network needs is not known here; `weights.py` knows.
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from model_store.torch_pickle import CheckpointError, StorageRef, TensorSpec, load_inert

__all__ = ["CheckpointError", "parse_checkpoint", "read_checkpoint"]

Array = npt.NDArray[Any]

CHECKPOINT_BYTES_MAX = 4 * 1024**3
"""Larger files are refused unread. B7 in float32 is 0.27 GB; with an average and optimiser state about 1.1 GB."""
PICKLE_BYTES_MAX = 64 * 1024**2
TENSOR_BYTES_MAX = 8 * 1024**3
"""All arrays of one checkpoint together, bfloat16 counted as the float32 it becomes."""

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEGACY_PROTOCOL = 1001

# The averaged weights come first: they are the ones a training run evaluates and publishes.
_WRAPPER_KEYS = ("state_dict_ema", "model_ema", "ema_state_dict", "state_dict", "model_state_dict", "model")
_PARALLEL_PREFIX = "module."  # torch.nn.DataParallel and DistributedDataParallel prefix every name

_DTYPES: dict[str, npt.DTypeLike] = {
    "float64": "<f8",
    "float32": "<f4",
    "float16": "<f2",
    "bfloat16": "<u2",  # numpy has none: read as bits, widened to float32
    "int64": "<i8",
    "int32": "<i4",
    "int16": "<i2",
    "int8": "i1",
    "uint8": "u1",
    "bool": "?",
}
_SAFETENSORS_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}


def read_checkpoint(path: Path) -> dict[str, Array]:
    """Read the file at `path`; see `parse_checkpoint`.

    Raises:
        CheckpointError: unreadable, too large, or refused.
    """
    try:
        size_bytes = path.stat().st_size
        if size_bytes > CHECKPOINT_BYTES_MAX:
            raise CheckpointError(f"{path} has {size_bytes} bytes; at most {CHECKPOINT_BYTES_MAX} are read")
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error.strerror or error}") from error
    return parse_checkpoint(data, str(path))


def parse_checkpoint(data: bytes, where: str) -> dict[str, Array]:
    """Tensor names to read-only arrays, in the file's order. `where` names the file in errors.

    Dtypes are as stored, bfloat16 widened to float32. A training checkpoint is unwrapped: of
    `state_dict_ema`, `model_ema`, `state_dict`, `model` and the like the first that is there is taken, and the
    `module.` prefix of data-parallel training is removed.

    Raises:
        CheckpointError: not one of the three formats, truncated, sizes that do not fit, or a pickle that names
            anything beyond tensors and dictionaries.
    """
    try:
        if data[8:9] == b"{" and struct.unpack_from("<Q", data)[0] <= len(data) - 8:
            return _strip_parallel_prefix(_read_safetensors(data))
        if data[:4] == b"PK\x03\x04":
            return _read_torch_zip(data)
        if data[:1] == b"\x80":
            return _read_torch_legacy(data)
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {error}") from error
    except (ValueError, IndexError, OverflowError, MemoryError, struct.error) as error:
        # numpy and zipfile meet numbers here that nobody sane wrote; whichever of them objects, the file is at fault.
        raise CheckpointError(f"{where}: malformed: {error}") from error
    raise CheckpointError(
        f"{where} is neither safetensors nor a torch checkpoint; save the weights with "
        "safetensors.torch.save_file(model.state_dict(), path) or torch.save(model.state_dict(), path)"
    )


def _read_safetensors(data: bytes) -> dict[str, Array]:
    try:
        entries = safetensors.deserialize(data)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"malformed or truncated safetensors: {error}") from error
    arrays = {}
    for name, entry in entries:
        dtype = _SAFETENSORS_DTYPES.get(entry["dtype"])
        if dtype is None:
            raise CheckpointError(f"tensor {name} has dtype {entry['dtype']}; read are {sorted(_SAFETENSORS_DTYPES)}")
        arrays[name] = _typed(entry["data"], dtype).reshape(entry["shape"])
    return arrays


def _read_torch_zip(data: bytes) -> dict[str, Array]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            prefix, sizes = _check_archive(archive, len(data))
            if sizes[f"{prefix}data.pkl"] > PICKLE_BYTES_MAX:
                raise CheckpointError(f"data.pkl is larger than {PICKLE_BYTES_MAX} bytes; save the state dict alone")
            saved = load_inert(io.BytesIO(archive.read(f"{prefix}data.pkl")))

            def read_storage(storage: StorageRef) -> bytes:
                entry = f"{prefix}data/{storage.key}"
                if entry not in sizes:
                    raise CheckpointError(f"storage {storage.key} is missing from the archive")
                return archive.read(entry)

            return _materialise(saved, read_storage)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise CheckpointError(f"malformed or truncated torch archive: {error}") from error


def _check_archive(archive: zipfile.ZipFile, size_bytes: int) -> tuple[str, dict[str, int]]:
    """The archive's folder (with its slash) and each entry's size, once nothing about them is unlike torch."""
    entries = archive.infolist()
    sizes = {entry.filename: entry.file_size for entry in entries}
    for entry in entries:
        if ".." in Path(entry.filename).parts or entry.filename.startswith("/") or "\\" in entry.filename:
            raise CheckpointError(f"the archive holds the path {entry.filename!r}, which torch never writes")
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 0x1:
            raise CheckpointError(f"archive entry {entry.filename} is compressed or encrypted; torch stores plainly")
    if len(sizes) != len(entries) or sum(sizes.values()) > size_bytes:
        raise CheckpointError("the archive's entries repeat or claim more bytes than the file has")
    pickles = [name for name in sizes if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(pickles) != 1:
        raise CheckpointError(f"a torch archive holds one <name>/data.pkl, this one {len(pickles)}")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}byteorder" in sizes and archive.read(f"{prefix}byteorder") != b"little":
        raise CheckpointError("saved on a big-endian machine; convert it to safetensors there")
    return prefix, sizes


def _read_torch_legacy(data: bytes) -> dict[str, Array]:
    stream = io.BytesIO(data)
    magic, protocol = load_inert(stream), None
    if magic == LEGACY_MAGIC:
        protocol, system = load_inert(stream), load_inert(stream)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise CheckpointError("saved on a big-endian machine; convert it to safetensors there")
    if protocol != LEGACY_PROTOCOL:
        raise CheckpointError("a pickle, but not one of torch.save; save with torch.save(model.state_dict(), path)")
    saved, keys = load_inert(stream), load_inert(stream)
    if not isinstance(keys, list):
        raise CheckpointError("malformed: the list of storages is missing")
    dtypes = {spec.storage.key: spec.storage.dtype for spec in _all_specs(saved)}
    blobs: dict[str, bytes] = {}
    for key in keys:
        if not isinstance(key, str) or key not in dtypes or key in blobs:
            raise CheckpointError(f"storage {str(key)[:40]} repeats or belongs to no tensor")
        header = stream.read(8)
        count = struct.unpack("<q", header)[0] if len(header) == 8 else -1
        size_bytes = count * np.dtype(_DTYPES[dtypes[key]]).itemsize
        if not 0 <= size_bytes <= len(data) - stream.tell():
            raise CheckpointError(f"truncated: storage {key} should have {size_bytes} bytes and the file ends before")
        blobs[key] = stream.read(size_bytes)

    def read_storage(storage: StorageRef) -> bytes:
        if storage.key not in blobs:
            raise CheckpointError(f"storage {storage.key} is missing from the file")
        return blobs[storage.key]

    return _materialise(saved, read_storage)


def _all_specs(saved: object) -> list[TensorSpec]:
    """Every tensor anywhere in what was saved: the legacy format stores optimiser state in the same list."""
    found: list[TensorSpec] = []
    seen: set[int] = set()
    pending = [saved]
    while pending:
        value = pending.pop()
        if isinstance(value, TensorSpec):
            found.append(value)
        elif isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            pending.extend(value.values() if isinstance(value, dict) else value)
    return found


def _unwrap(saved: object) -> dict[object, object]:
    """The state dict inside what was saved: the thing itself, or the best of a training checkpoint's entries.

    Two levels, since some training loops save {"model": {"state_dict": …}}.
    """
    if not isinstance(saved, dict) or not saved:
        raise CheckpointError("holds no dictionary of tensors; save with torch.save(model.state_dict(), path)")
    state: dict[object, object] = saved
    for _ in range(2):
        entries = (state.get(key) for key in _WRAPPER_KEYS)
        inner = next((entry for entry in entries if isinstance(entry, dict) and entry), None)
        if inner is None:
            break
        state = inner
    return state


def _materialise(saved: object, read_storage: Callable[[StorageRef], bytes]) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    storages: dict[StorageRef, Array] = {}
    total_bytes = 0
    for name, spec in _unwrap(saved).items():
        if not isinstance(name, str) or not isinstance(spec, TensorSpec):
            raise CheckpointError(
                f"entry {str(name)[:80]!r} is no tensor; expected a state dict, or one under {', '.join(_WRAPPER_KEYS)}"
            )
        if spec.storage not in storages:
            storages[spec.storage] = _read_storage_checked(spec.storage, read_storage)
        array = _strided(name, storages[spec.storage], spec)
        total_bytes += array.nbytes
        if total_bytes > TENSOR_BYTES_MAX:
            raise CheckpointError(f"the tensors take more than {TENSOR_BYTES_MAX} bytes; save the state dict alone")
        arrays[name] = array
    return _strip_parallel_prefix(arrays)


def _read_storage_checked(storage: StorageRef, read_storage: Callable[[StorageRef], bytes]) -> Array:
    data = read_storage(storage)
    expected_bytes = storage.element_count * np.dtype(_DTYPES[storage.dtype]).itemsize
    if len(data) != expected_bytes:
        raise CheckpointError(f"storage {storage.key} has {len(data)} bytes, its tensors need {expected_bytes}")
    return _typed(data, storage.dtype)


def _typed(data: bytes | bytearray, dtype: str) -> Array:
    flat: Array = np.frombuffer(data, dtype=_DTYPES[dtype])
    if dtype == "bfloat16":
        # A bfloat16 is the upper half of the float32 with the same value.
        flat = (flat.astype(np.uint32) << 16).view(np.float32)
    flat.flags.writeable = False
    return flat


def _strided(name: str, flat: Array, spec: TensorSpec) -> Array:
    if len(spec.shape) != len(spec.strides):
        raise CheckpointError(f"tensor {name} has {len(spec.shape)} dimensions and {len(spec.strides)} strides")
    element_count = math.prod(spec.shape)
    last = spec.offset + sum((length - 1) * stride for length, stride in zip(spec.shape, spec.strides, strict=True))
    # An expanded tensor (stride 0) may hold more elements than its storage; none of a network's weights are.
    if element_count > flat.size or (element_count and last >= flat.size) or len(spec.shape) > 32:
        raise CheckpointError(f"tensor {name} of shape {spec.shape} reaches outside its storage of {flat.size}")
    if not element_count:
        return np.empty(spec.shape, dtype=flat.dtype)
    byte_strides = tuple(stride * flat.itemsize for stride in spec.strides)
    return np.lib.stride_tricks.as_strided(flat[spec.offset :], spec.shape, byte_strides, writeable=False)


def _strip_parallel_prefix(arrays: dict[str, Array]) -> dict[str, Array]:
    if arrays and all(name.startswith(_PARALLEL_PREFIX) for name in arrays):
        return {name.removeprefix(_PARALLEL_PREFIX): array for name, array in arrays.items()}
    return arrays
