"""Frozen dataclasses to JSON and back, strictly: an unknown, missing or mistyped key is an error that names it.

Understands what the store's files need and no more: str, int, float, bool, None, Literal, unions with None,
nested dataclasses, `tuple[X, ...]` and `dict[str, X]`. Opens no file.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from typing import Any, TypeVar

T = TypeVar("T")


class StrictJsonError(ValueError):
    """The text does not describe the wanted dataclass. The message names the path, such as `variant.top1`."""


def dumps(value: Any) -> str:
    """Canonical text of a dataclass: sorted keys, two-space indent, final newline. Equal values, equal bytes."""
    return json.dumps(value, default=_fields, indent=2, sort_keys=True, allow_nan=False) + "\n"


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def loads(kind: type[T], text: str | bytes, where: str) -> T:
    """Parse `text` as the dataclass `kind`; `where` names the document in errors.

    Raises:
        StrictJsonError: not JSON, or a key is unknown, missing or of a wrong type.
    """
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise StrictJsonError(f"{where} is not JSON: {error}") from error
    parsed: T = _parse(kind, raw, where)
    return parsed


def _parse(kind: Any, raw: Any, where: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return _parse_dataclass(kind, raw, where)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if raw not in arguments or type(raw) not in {type(argument) for argument in arguments}:
            raise StrictJsonError(f"{where} must be one of {list(arguments)}, got {raw!r}")
        return raw
    if origin in (types.UnionType, typing.Union):
        return _parse_optional(arguments, raw, where)
    if origin is tuple:
        if not isinstance(raw, list):
            raise StrictJsonError(f"{where} must be a list, got {raw!r}")
        return tuple(_parse(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(raw))
    if origin is dict:
        if not isinstance(raw, dict):
            raise StrictJsonError(f"{where} must be an object, got {raw!r}")
        return {key: _parse(arguments[1], item, f"{where}.{key}") for key, item in raw.items()}
    return _parse_scalar(kind, raw, where)


def _parse_dataclass(kind: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise StrictJsonError(f"{where} must be an object, got {raw!r}")
    hints = _hints(kind)
    if unknown := sorted(raw.keys() - hints.keys()):
        raise StrictJsonError(f"{where} has unknown keys {unknown}")
    if missing := sorted(hints.keys() - raw.keys()):
        raise StrictJsonError(f"{where} lacks {missing}")
    # Most values are just what is wanted: nobody needs to be told where they are.
    return kind(
        **{
            name: value if type(value := raw[name]) is hint else _parse(hint, value, f"{where}.{name}")
            for name, hint in hints.items()
        }
    )


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The fields of a dataclass with their types, by name. Kept: a file of labels has a thousand of one kind."""
    hints = typing.get_type_hints(kind)
    return {name: hints[name] for name in sorted(field.name for field in dataclasses.fields(kind))}


def _parse_optional(arguments: tuple[Any, ...], raw: Any, where: str) -> Any:
    if raw is None and type(None) in arguments:
        return None
    (inner,) = (argument for argument in arguments if argument is not type(None))
    return _parse(inner, raw, where)


def _parse_scalar(kind: Any, raw: Any, where: str) -> Any:
    # bool is a subclass of int, and an integer literal is a fine float: exact types say what is meant.
    if type(raw) is kind:
        return raw
    if kind is float and type(raw) is int:
        return float(raw)
    raise StrictJsonError(f"{where} must be {getattr(kind, '__name__', kind)}, got {raw!r}")
