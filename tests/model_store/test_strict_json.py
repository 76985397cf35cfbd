"""Strict JSON: what it writes it reads, and everything else it refuses by name."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_store import strict_json


@dataclass(frozen=True)
class Inner:
    kind: Literal["a", "b"]
    share: float


@dataclass(frozen=True)
class Outer:
    name: str
    count: int
    on: bool
    note: str | None
    inner: Inner
    rows: tuple[Inner, ...]
    table: dict[str, int]


inners = st.builds(Inner, kind=st.sampled_from(["a", "b"]), share=st.floats(allow_nan=False, allow_infinity=False))
outers = st.builds(
    Outer,
    name=st.text(),
    count=st.integers(),
    on=st.booleans(),
    note=st.none() | st.text(),
    inner=inners,
    rows=st.lists(inners, max_size=3).map(tuple),
    table=st.dictionaries(st.text(), st.integers(), max_size=3),
)
EXAMPLE = Outer("n", 1, True, None, Inner("a", 0.5), (Inner("b", 1.0),), {"k": 2})  # noqa: FBT003 - a row of values


@given(outers)
def test_what_is_written_is_read_back(value: Outer) -> None:
    """Any value survives the way to text and back."""
    assert strict_json.loads(Outer, strict_json.dumps(value), "doc") == value


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"count": 1', '"count": true', "doc.count must be int"),
        ('"count": 1', '"count": "1"', "doc.count must be int"),
        ('"on": true', '"on": 1', "doc.on must be bool"),
        ('"note": null', '"note": 3', "doc.note must be str"),
        ('"kind": "a"', '"kind": "z"', r"doc.inner.kind must be one of \['a', 'b'\]"),
        ('"share": 1.0', '"share": null', r"doc.rows\[0\].share must be float"),
        ('"k": 2', '"k": 2.5', "doc.table.k must be int"),
        ('"count": 1', '"cuont": 1', r"doc has unknown keys \['cuont'\]"),
        ('"name": "n",', "", None),
        ('"inner": {', '"inner": [], "extra": {', r"unknown keys \['extra'\]"),
    ],
)
def test_a_wrong_key_or_type_is_named(old: str, new: str, message: str | None) -> None:
    """An unknown, missing or mistyped key is refused with its path."""
    text = strict_json.dumps(EXAMPLE)
    assert old in text or message is None
    if message is None:
        text, message = text.replace('"name": "n"', '"on2": 1'), r"unknown keys \['on2'\]"
    with pytest.raises(strict_json.StrictJsonError, match=message):
        strict_json.loads(Outer, text.replace(old, new), "doc")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\x00", "nul"])
def test_what_is_no_object_is_refused(text: str) -> None:
    """Text that is not JSON, or not an object, is an error and not a crash."""
    with pytest.raises(strict_json.StrictJsonError):
        strict_json.loads(Outer, text, "doc")


def test_a_missing_key_is_named() -> None:
    """A key that is not there is refused by its name, even if it could be null."""
    with pytest.raises(strict_json.StrictJsonError, match=r"doc lacks \['share'\]"):
        strict_json.loads(Inner, '{"kind": "a"}', "doc")


def test_equal_values_give_equal_bytes() -> None:
    """The text is canonical, so that hashes of it can be compared."""
    again = strict_json.loads(Outer, strict_json.dumps(EXAMPLE), "doc")
    assert strict_json.dumps(again) == strict_json.dumps(EXAMPLE)
