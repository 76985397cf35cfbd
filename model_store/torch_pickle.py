"""Reads the pickles inside torch checkpoints as inert data: it never calls or imports anything they name.

The standard unpickler, even with an overridden `find_class`, still performs a pickle's calls and attribute
assignments. This one is a small stack machine over `pickletools.genops` that knows only the opcodes a saved
state dict needs; a global is a name compared with a short list, and "calling" one builds a description of a
tensor. Anything else is refused by name. Storages are not read here; `checkpoint.py` reads them.
"""

from __future__ import annotations

import pickletools
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import BinaryIO

OPCODES_MAX = 5_000_000
"""An EfficientNet's state dict takes about 15,000 opcodes; optimiser state and a long history some times more."""

STORAGE_DTYPES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
}
_DICTIONARY = "collections.OrderedDict"
_NAMESPACE = "argparse.Namespace"  # training scripts save their arguments beside the weights
_TENSOR_BUILDERS = frozenset({"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"})
_PARAMETER_BUILDERS = frozenset({"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"})
_GLOBALS = frozenset({*STORAGE_DTYPES, _DICTIONARY, _NAMESPACE, *_TENSOR_BUILDERS, *_PARAMETER_BUILDERS})


class CheckpointError(ValueError):
    """A checkpoint that is refused: malformed, of an unknown format, or naming code to run."""


@dataclass(frozen=True, slots=True)
class StorageRef:
    """One flat run of `element_count` numbers, stored elsewhere in the file under `key`."""

    key: str
    dtype: str
    element_count: int


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A view into a storage; `offset` and `strides` count elements. Not yet checked against the storage."""

    storage: StorageRef
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Global:
    """The name of something in a Python module. Never the thing itself."""

    name: str


class _Opaque:
    """Stands where a value was that nobody here needs, such as a training script's arguments."""

    __slots__ = ()


_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_NUMBERS = frozenset({"BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT"})
_TEXTS = frozenset(
    {"BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "SHORT_BINBYTES", "BINBYTES", "SHORT_BINSTRING", "BINSTRING"}
)
_IGNORED = frozenset({"PROTO", "FRAME", "STOP"})


def load_inert(stream: BinaryIO) -> object:
    """Read one pickle from `stream`, leaving it just behind the pickle's end.

    Returns dicts, lists, tuples, strings, numbers and `TensorSpec`s; executes nothing.

    Raises:
        CheckpointError: malformed, or it names a global or an opcode that a state dict does not need.
    """
    machine = _Machine()
    try:
        with warnings.catch_warnings():
            # Of a backslash in a name that escapes nothing, which only a damaged file has, Python merely warns.
            warnings.simplefilter("error")
            for opcode, argument, _ in pickletools.genops(stream):
                machine.step(opcode.name, argument)
        return machine.result()
    except CheckpointError:
        raise
    except (ValueError, IndexError, KeyError, OverflowError, Warning) as error:
        raise CheckpointError(f"malformed or truncated pickle: {error}") from error


class _Machine:
    """Stack, marks and memo of one pickle. Every value on the stack is plain data or one of the classes above."""

    def __init__(self) -> None:
        self._stack: list[object] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}
        self._steps = 0
        self._handlers: dict[str, Callable[[], None]] = {
            "MARK": lambda: self._marks.append(len(self._stack)),
            "POP": self._pop_discard,
            "EMPTY_DICT": lambda: self._stack.append({}),
            "EMPTY_LIST": lambda: self._stack.append([]),
            "EMPTY_TUPLE": lambda: self._stack.append(()),
            "DICT": lambda: self._stack.append(self._fill_dict({}, self._pop_to_mark())),
            "LIST": lambda: self._stack.append(self._pop_to_mark()),
            "TUPLE": lambda: self._stack.append(tuple(self._pop_to_mark())),
            "TUPLE1": lambda: self._stack.append(self._pop_tuple(1)),
            "TUPLE2": lambda: self._stack.append(self._pop_tuple(2)),
            "TUPLE3": lambda: self._stack.append(self._pop_tuple(3)),
            "SETITEM": lambda: self._set_items(list(self._pop_tuple(2))),
            "SETITEMS": lambda: self._set_items(self._pop_to_mark()),
            "APPEND": lambda: self._append([self._pop()]),
            "APPENDS": lambda: self._append(self._pop_to_mark()),
            "MEMOIZE": lambda: self._memo.__setitem__(len(self._memo), self._top()),
            "STACK_GLOBAL": self._stack_global,
            "BINPERSID": lambda: self._stack.append(_storage_ref(self._pop())),
            "REDUCE": self._reduce,
            "NEWOBJ": self._reduce,
            "BUILD": self._build,
        }

    def step(self, opcode: str, argument: object) -> None:
        """Perform one opcode."""
        self._steps += 1
        if self._steps > OPCODES_MAX:
            raise CheckpointError(f"the pickle has more than {OPCODES_MAX} opcodes; save the state dict alone")
        if opcode in self._handlers:
            self._handlers[opcode]()
        elif opcode in _NUMBERS or opcode in _TEXTS:
            self._stack.append(argument)
        elif opcode in _LITERALS:
            self._stack.append(_LITERALS[opcode])
        elif opcode in ("BINPUT", "LONG_BINPUT"):
            self._memo[_whole(argument, "memo index")] = self._top()
        elif opcode in ("BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[_whole(argument, "memo index")])
        elif opcode == "GLOBAL":
            self._stack.append(_global(*str(argument).split(" ", 1)))
        elif opcode not in _IGNORED:
            raise CheckpointError(f"pickle opcode {opcode} has no place in a state dict; nothing was executed")

    def result(self) -> object:
        """The one value that is left at the end."""
        if len(self._stack) != 1 or self._marks:
            raise CheckpointError(f"malformed pickle: {len(self._stack)} values left at its end instead of one")
        return self._stack[0]

    def _top(self) -> object:
        self._check_above_mark(1)
        return self._stack[-1]

    def _pop(self) -> object:
        self._check_above_mark(1)
        return self._stack.pop()

    def _pop_discard(self) -> None:
        self._pop()

    def _pop_tuple(self, count: int) -> tuple[object, ...]:
        self._check_above_mark(count)
        values = tuple(self._stack[-count:])
        del self._stack[-count:]
        return values

    def _pop_to_mark(self) -> list[object]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _check_above_mark(self, count: int) -> None:
        if len(self._stack) - (self._marks[-1] if self._marks else 0) < count:
            raise CheckpointError("malformed pickle: an opcode takes more values than there are")

    def _set_items(self, flat: list[object]) -> None:
        target = self._top()
        if not isinstance(target, dict):
            raise CheckpointError("malformed pickle: items set on something that is no dictionary")
        self._fill_dict(target, flat)

    @staticmethod
    def _fill_dict(target: dict[object, object], flat: list[object]) -> dict[object, object]:
        if len(flat) % 2:
            raise CheckpointError("malformed pickle: a key without a value")
        for key, value in zip(flat[::2], flat[1::2], strict=True):
            # Hashing a tuple recurses on the C stack, so a deep one as a key would crash the interpreter.
            if type(key) not in (str, int):
                raise CheckpointError(f"a dictionary key of type {type(key).__name__}; state dicts have str keys")
            target[key] = value
        return target

    def _append(self, values: Iterable[object]) -> None:
        target = self._top()
        if not isinstance(target, list):
            raise CheckpointError("malformed pickle: values appended to something that is no list")
        target.extend(values)

    def _stack_global(self) -> None:
        module, name = self._pop_tuple(2)
        self._stack.append(_global(module, name))

    def _reduce(self) -> None:
        function, arguments = self._pop_tuple(2)
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise CheckpointError("the pickle calls something that is no known constructor; nothing was executed")
        self._stack.append(self._construct(function.name, arguments))

    def _construct(self, name: str, arguments: tuple[object, ...]) -> object:
        if name == _NAMESPACE:
            return _Opaque()
        if name == _DICTIONARY and not arguments:
            return {}
        if name in _TENSOR_BUILDERS:
            return _tensor_spec(arguments)
        if name in _PARAMETER_BUILDERS and arguments and isinstance(arguments[0], TensorSpec):
            return arguments[0]
        raise CheckpointError(f"the pickle calls {name} in a way torch does not; nothing was executed")

    def _build(self) -> None:
        # Attributes (an OrderedDict's _metadata, a Namespace's arguments) carry no weights: dropped, not set.
        _, target = self._pop(), self._top()
        if not isinstance(target, dict | _Opaque):
            raise CheckpointError("the pickle sets attributes on something that is no dictionary; nothing was executed")


def _global(module: object, name: object = "") -> _Global:
    full_name = f"{module}.{name}"
    if full_name not in _GLOBALS:
        raise CheckpointError(
            f"the pickle names {full_name}, which a state dict does not need; nothing was executed. "
            "Save the weights alone, as safetensors or with torch.save(model.state_dict(), path)"
        )
    return _Global(full_name)


def _storage_ref(persistent_id: object) -> StorageRef:
    """Understand torch's persistent id: ("storage", type, key, device, element count[, view of another])."""
    match persistent_id:
        case ("storage", _Global(name=kind), str(key), str(), int(count), *rest) if kind in STORAGE_DTYPES:
            if rest not in ([], [None]):
                raise CheckpointError(f"storage {key} is a view of another one, as only torch before 0.4 saved it")
            return StorageRef(key, STORAGE_DTYPES[kind], _whole(count, f"size of storage {key}"))
    raise CheckpointError("a persistent id that does not describe a torch storage")


def _tensor_spec(arguments: tuple[object, ...]) -> TensorSpec:
    match arguments:
        case (StorageRef() as storage, offset, tuple(shape), tuple(strides), *_):
            return TensorSpec(
                storage,
                _whole(offset, "tensor offset"),
                tuple(_whole(length, "tensor length") for length in shape),
                tuple(_whole(stride, "tensor stride") for stride in strides),
            )
    raise CheckpointError("a tensor that is not built from a storage, an offset, a shape and strides")


def _whole(value: object, what: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise CheckpointError(f"{what} must be a whole number of at least 0, got {str(value)[:40]}")
    return value
