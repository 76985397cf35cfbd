"""Writes files as torch.save does, with the standard library's pickler and numpy instead of torch."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from dataclasses import dataclass

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
SYSTEM = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
KINDS = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


@dataclass(frozen=True)
class Named:
    """Pickles as a global of this name, whether or not such a module can be imported here."""

    module: str
    name: str

    def __call__(self, *arguments):
        raise AssertionError("a name in a test file is never called")


@dataclass(frozen=True)
class Storage:
    key: str
    kind: str
    count: int
    content: bytes


@dataclass(frozen=True)
class Tensor:
    storage: Storage
    offset: int
    shape: tuple
    strides: tuple

    def __reduce__(self):
        arguments = (self.storage, self.offset, self.shape, self.strides, False, OrderedDict())
        return Named("torch._utils", "_rebuild_tensor_v2"), arguments


@dataclass(frozen=True)
class Parameter:
    data: Tensor

    def __reduce__(self):
        return Named("torch._utils", "_rebuild_parameter"), (self.data, True, OrderedDict())


def tensor(array: np.ndarray, key: str = "0", kind: str | None = None) -> Tensor:
    """A whole-storage tensor of `array`; `kind` overrides the storage type, for bfloat16 given as its bits."""
    storage = Storage(key, kind or KINDS[array.dtype.name], array.size, array.tobytes())
    strides = tuple(stride // array.itemsize for stride in array.copy(order="C").strides)
    return Tensor(storage, 0, array.shape, strides)


class _Pickler(pickle._Pickler):
    def __init__(self, stream, protocol):
        super().__init__(stream, protocol)
        self.storages = {}

    def save(self, obj, *arguments, **options):
        if not isinstance(obj, Named):
            return super().save(obj, *arguments, **options)
        if self.proto >= 4:
            super().save(obj.module)
            super().save(obj.name)
            return self.write(pickle.STACK_GLOBAL)
        return self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())

    def persistent_id(self, obj):
        if not isinstance(obj, Storage):
            return None
        self.storages[obj.key] = obj
        rest = (None,) if self.legacy else ()
        return ("storage", Named("torch", obj.kind), obj.key, "cpu", obj.count, *rest)

    legacy = False


class _LegacyPickler(_Pickler):
    legacy = True


def _dump(pickler_type, value, protocol):
    stream = io.BytesIO()
    pickler = pickler_type(stream, protocol)
    pickler.dump(value)
    return stream.getvalue(), list(pickler.storages.values())


def zip_file(value, *, protocol: int = 2) -> bytes:
    """What torch.save writes since 1.6."""
    data_pickle, storages = _dump(_Pickler, value, protocol)
    entries = {f"data/{storage.key}": storage.content for storage in storages}
    return zip_of({"data.pkl": data_pickle, "byteorder": b"little", **entries, "version": b"3\n"})


def zip_of(entries: dict[str, bytes], *, compression: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with `entries` under `archive/`; a name that starts with `!` is taken as it is."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(name[1:] if name.startswith("!") else f"archive/{name}", content)
    return stream.getvalue()


def legacy_file(value, *, system=SYSTEM) -> bytes:
    """What torch.save wrote before 1.6, and still writes when asked to."""
    main_pickle, storages = _dump(_LegacyPickler, value, 2)
    return legacy_of(main_pickle, storages, system=system)


def legacy_of(main_pickle: bytes, storages=(), *, system=SYSTEM) -> bytes:
    """The legacy layout around a given main pickle."""
    head = [pickle.dumps(part, 2) for part in (MAGIC, 1001, system)]
    keys = pickle.dumps([storage.key for storage in storages], 2)
    blobs = [struct.pack("<q", storage.count) + storage.content for storage in storages]
    return b"".join([*head, main_pickle, keys, *blobs])
