"""The query string of `POST /classify`: one table of parameters, which parses them and describes them.

Reading is strict: an unknown name, a name given twice and a value out of range are refused with what would have
worked, all faults in one answer. It decides nothing about routing; it only builds `RequestOptions`.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from service.core.request import DEFAULT_POLICY, PRIORITY_MAX, OnMiss, RequestOptions, RoutingPolicy
from service.errors import InvalidArgument

NS_PER_MS = 1_000_000
TOP_K_DEFAULT = 5
VARIANT_LENGTH_MAX = 64
_SHOWN_LENGTH_MAX = 40
_POLICY_PARAMETERS = frozenset({"variant", "min_accuracy", "target_ms", "on_miss", "priority"})
_PARSED_KEPT = 256
_PARSED_LENGTH_MAX = 256
"""Bytes of a query, or characters of values, that are kept as they were read."""

# JSON's number grammar without the sign: no value here may be negative, and "nan", "1_0" or "٣" are no numbers.
_NUMBER = re.compile(r"[0-9]{1,20}(\.[0-9]{1,30})?([eE][+-]?[0-9]{1,3})?", re.ASCII)
_INTEGER = re.compile(r"[0-9]{1,9}", re.ASCII)


class _Fault(ValueError):
    """A value that is not what its parameter takes; the message says what it takes."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One query parameter: how it is read, and how OpenAPI describes it.

    `parse` raises `_Fault` with the end of the sentence "`name` must be …".
    """

    name: str
    description: str
    schema: Mapping[str, Any]
    parse: Callable[[str], Any]

    def to_openapi(self) -> dict[str, Any]:
        """An OpenAPI 3.1 Parameter Object."""
        return {
            "name": self.name,
            "in": "query",
            "required": False,
            "description": self.description,
            "schema": dict(self.schema),
        }


class ClassifyParameters:
    """The parameters of `POST /classify`, within a server's bounds."""

    def __init__(self, *, budget_ns_default: int, budget_ns_max: int, top_k_max: int) -> None:
        """Bounds in nanoseconds and in classes."""
        budget_ms_max = budget_ns_max / NS_PER_MS
        milliseconds = {"type": "number", "exclusiveMinimum": 0, "maximum": budget_ms_max}
        table = (
            Parameter(
                "budget_ms",
                "How long the answer may take, in milliseconds, from the body's last byte to the answer being ready. "
                f"Without it the server's default of {budget_ns_default / NS_PER_MS:g} ms.",
                milliseconds,
                _milliseconds(budget_ms_max),
            ),
            Parameter(
                "top_k",
                "How many classes to answer with, most probable first.",
                {"type": "integer", "minimum": 1, "maximum": top_k_max, "default": min(TOP_K_DEFAULT, top_k_max)},
                _integer(1, top_k_max),
            ),
            Parameter(
                "variant",
                "Answer with exactly this variant (see GET /variants) or not at all.",
                {"type": "string", "minLength": 1, "maxLength": VARIANT_LENGTH_MAX, "examples": ["lite0"]},
                _variant,
            ),
            Parameter(
                "min_accuracy",
                "Answer only with variants of at least this top-1 accuracy, in percent.",
                {"type": "number", "minimum": 0, "maximum": 100},
                _percent,
            ),
            Parameter(
                "target_ms",
                "A soft target for latency in milliseconds: among the variants that make the budget, trade accuracy "
                "for closeness to this.",
                milliseconds,
                _milliseconds(budget_ms_max),
            ),
            Parameter(
                "priority",
                "Higher goes first among requests that are equally urgent.",
                {"type": "integer", "minimum": 0, "maximum": PRIORITY_MAX, "default": 0},
                _integer(0, PRIORITY_MAX),
            ),
            Parameter(
                "on_miss",
                "When no variant can make the budget: `reject` answers 504 at once, `late` answers with the fastest "
                "variant, marked `budget_met: false`.",
                {"type": "string", "enum": [choice.value for choice in OnMiss], "default": OnMiss.REJECT.value},
                _on_miss,
            ),
        )
        self._by_name = {parameter.name: parameter for parameter in table}
        self._top_k_default = min(TOP_K_DEFAULT, top_k_max)
        # Callers ask for the same again and again; what they may send is bounded, so what is kept of it is.
        self._parsed = functools.lru_cache(_PARSED_KEPT)(self._parse)
        self._read_kept = functools.lru_cache(_PARSED_KEPT)(self._read)

    def to_openapi(self) -> list[dict[str, Any]]:
        """Every parameter as an OpenAPI 3.1 Parameter Object."""
        return [parameter.to_openapi() for parameter in self._by_name.values()]

    def parse(self, query: bytes) -> RequestOptions:
        """Read an undecoded query string.

        Raises:
            InvalidArgument: names every fault and what would have worked.
        """
        return self._parsed(query) if len(query) <= _PARSED_LENGTH_MAX else self._parse(query)

    def _parse(self, query: bytes) -> RequestOptions:
        return self._options(self._values(_pairs(query, pairs_max=4 * len(self._by_name)), self._by_name))

    def read(self, parameters: Iterable[tuple[str, str]], known: tuple[str, ...]) -> RequestOptions:
        """Read parameters that came on another way than the query, as text; only those that are `known` there.

        Raises:
            InvalidArgument: as `parse`.
        """
        given = tuple(parameters)
        is_short = sum(len(name) + len(text) for name, text in given) <= _PARSED_LENGTH_MAX
        return self._read_kept(given, known) if is_short else self._read(given, known)

    def _read(self, parameters: Iterable[tuple[str, str]], known: tuple[str, ...]) -> RequestOptions:
        return self._options(self._values(parameters, [name for name in self._by_name if name in known]))

    def _options(self, values: Mapping[str, Any]) -> RequestOptions:
        budget_ms, target_ms = values.get("budget_ms"), values.get("target_ms")
        return RequestOptions(
            budget_ns=None if budget_ms is None else _to_ns(budget_ms),
            top_k=values.get("top_k", self._top_k_default),
            policy=DEFAULT_POLICY
            if _POLICY_PARAMETERS.isdisjoint(values)
            else RoutingPolicy(
                variant=values.get("variant"),
                min_accuracy=values.get("min_accuracy"),
                target_ns=None if target_ms is None else _to_ns(target_ms),
                on_miss=values.get("on_miss", OnMiss.REJECT),
                priority=values.get("priority", 0),
            ),
        )

    def _values(self, pairs: Iterable[tuple[str, str]], known: Collection[str]) -> dict[str, Any]:
        faults: list[str] = []
        violations: dict[str, str] = {}
        values: dict[str, Any] = {}
        for name, text in pairs:
            if name not in known:
                faults.append(f"no parameter is named {_shown(name)}; known are {', '.join(known)}")
            elif name in values:
                faults.append(f"{name} is given more than once; give it once")
            else:
                try:
                    values[name] = self._by_name[name].parse(text)
                except _Fault as fault:
                    values[name] = None
                    violations[name] = f"must be {fault}, got {_shown(text)}"
                    faults.append(f"{name} {violations[name]}")
        if faults:
            raise InvalidArgument("; ".join(dict.fromkeys(faults)), violations=violations)
        return values


def _pairs(query: bytes, pairs_max: int) -> list[tuple[str, str]]:
    try:
        return parse_qsl(
            query.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=pairs_max
        )
    except UnicodeDecodeError as error:
        raise InvalidArgument("the query string must be percent-encoded UTF-8") from error
    except ValueError as error:
        raise InvalidArgument(f"the query string has too many parameters; at most {pairs_max} are read") from error


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN_LENGTH_MAX else text[:_SHOWN_LENGTH_MAX] + "…")


def _to_ns(milliseconds: float) -> int:
    """Nanoseconds, at least 1: a budget that rounds to none is still a budget, and not the default."""
    return max(1, round(milliseconds * NS_PER_MS))


def _number(text: str) -> float:
    number = float(text) if _NUMBER.fullmatch(text) else math.nan
    return number if math.isfinite(number) else math.nan


def _milliseconds(milliseconds_max: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        number = _number(text)
        if not 0 < number <= milliseconds_max:
            raise _Fault(f"a number of milliseconds above 0 and at most {milliseconds_max:g}")
        return number

    return parse


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not (_INTEGER.fullmatch(text) and low <= int(text) <= high):
            raise _Fault(f"an integer from {low} to {high}")
        return int(text)

    return parse


def _percent(text: str) -> float:
    number = _number(text)
    if not 0 <= number <= 100:
        raise _Fault("a number of percent from 0 to 100")
    return number


def _variant(text: str) -> str:
    if not (1 <= len(text) <= VARIANT_LENGTH_MAX and text.isprintable()):
        raise _Fault("the name of a variant, see GET /variants")
    return text


def _on_miss(text: str) -> OnMiss:
    try:
        return OnMiss(text)
    except ValueError:
        raise _Fault(" or ".join(choice.value for choice in OnMiss)) from None
