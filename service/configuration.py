"""The configuration file and the environment's names: read, checked against `Settings`, and written back as TOML.

One flat file of settings by their names, such as `port = 8000`. What is wrong is said with the line or the variable to
mend, all of it at once. Which of flag, variable and file wins is the option parser's to say (`setting_options.py`).
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from service.settings import Settings, environment_variable, kinds, knobs

CONFIG_VARIABLE = "PHISERVE_CONFIG"
FILE_BYTES_MAX = 1024**2

_PREFIX = "PHISERVE_"
_OTHERS = frozenset({CONFIG_VARIABLE, "PHISERVE_URL"})
"""Variables that are no settings of the server: where its file is, and where the clients' command finds a server."""

_KINDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    Path: "a path as a string",
    tuple[str, ...]: "an array of strings",
}


class ConfigurationError(Exception):
    """The file or the environment cannot be used. Each line of the message names a line or a variable to mend."""


@dataclass(frozen=True, slots=True)
class ConfigurationFile:
    """What one file sets: values as `Settings` takes them, and the line of each. `path` None: there is no file."""

    path: Path | None = None
    values: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    lines: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def origin(self, name: str) -> str:
        """Where in the file `name` is set."""
        return f"line {self.lines[name]} of {self.path}"


def read_configuration_file(path: Path) -> ConfigurationFile:
    """Read and check a file; contradictions between settings are left to `Settings`.

    Raises:
        ConfigurationError: it cannot be read, is no TOML, or sets what is no setting or not of its type and bounds.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError(f"cannot read the configuration file {path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigurationError(f"{path} is larger than {FILE_BYTES_MAX} bytes; that is no configuration file")
    try:
        text = content.decode()
        tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{path} is no TOML file: {error}") from error
    values, lines, problems = {}, {}, []
    for line, name, given in _statements(text):
        problem = _problem(name, given)
        if problem is not None:
            problems.append(f"line {line} of {path}: {problem}")
            if isinstance(given, dict):
                break  # what follows belongs to the table, and is not for its own name
            continue
        values[name], lines[name] = given, line
    if problems:
        raise ConfigurationError("\n".join(problems))
    return ConfigurationFile(path, values, lines)


def check_environment(environ: Mapping[str, str]) -> None:
    """Refuse `PHISERVE_*` variables that set nothing, so that no misspelt one goes unseen.

    Kubernetes adds variables for each Service of a pod's namespace. Those of a Service whose name begins with
    `phiserve` look like ours. They are passed over, since anybody may make such a Service and the next pod must start
    all the same; but for one with the name of a setting, which would be read as that setting.

    Raises:
        ConfigurationError: with the variable that was probably meant.
    """
    known = {environment_variable(name) for name in knobs()}
    linked = dict(_service_links(environ))
    problems = [
        f"{variable}={environ[variable]} is what Kubernetes sets for a Service named {linked[variable]}, and the name "
        "of a setting too; say enableServiceLinks: false in the pod's spec"
        for variable in sorted(linked.keys() & known)
    ]
    for variable in sorted(environ):
        if variable.startswith(_PREFIX) and variable not in known | _OTHERS | linked.keys():
            meant = _meant(variable.removeprefix(_PREFIX), (name.removeprefix(_PREFIX) for name in known | _OTHERS))
            advice = "unset it, or see `phiserve serve --help`" if meant is None else f"did you mean {_PREFIX}{meant}?"
            problems.append(f"{variable} is no setting; {advice}")
    if problems:
        raise ConfigurationError("\n".join(problems))


def to_toml(settings: Settings, origins: Mapping[str, str]) -> str:
    """A configuration file that makes `settings`, with the origin of each as a comment."""
    rows = [
        "# Settings of `phiserve serve`: a flag wins over a PHISERVE_ variable, that over a file, that over a default."
    ]
    for name in knobs():
        value = getattr(settings, name)
        written = f"# {name} is not set" if value is None else f"{name} = {_toml(value)}  # {origins[name]}"
        rows.append(written)
    return "\n".join(rows) + "\n"


def _statements(text: str) -> Iterator[tuple[int, str, Any]]:
    """(line, key, value) of each statement of a valid TOML file, in order; a table comes with a dict as its value.

    The library tells no lines. A statement is the shortest run of lines that it can read by itself.
    """
    pending: list[str] = []
    first = 1
    for number, line in enumerate(text.split("\n"), start=1):
        if not pending:
            first = number
        pending.append(line)
        try:
            read = tomllib.loads("\n".join(pending))
        except tomllib.TOMLDecodeError:
            continue  # the rest of the statement is on the next lines
        pending = []
        yield from ((first, name, value) for name, value in read.items())


def _problem(name: str, given: Any) -> str | None:
    """Why `name` cannot be set to `given`; None if it can, but for contradictions with other settings."""
    if name not in knobs():
        if isinstance(given, dict):
            return f"{name} is a table, and settings are in none; write them at the top, such as port = 8000"
        meant = _meant(name, knobs())
        advice = "`phiserve serve --print-config` shows all there are" if meant is None else f"did you mean {meant}?"
        return f"{name} is no setting; {advice}"
    kind = _plain_kind(name)
    if typing.get_origin(kind) is Literal:
        allowed = typing.get_args(kind)
        return None if given in allowed else f"{name} must be one of {_listed(allowed)}, got {_toml(given)}"
    if not _is_of(kind, given):
        return f"{name} must be {_KINDS[kind]}, got {_toml(given)}"
    knob = knobs()[name]
    if knob.low is not None and knob.high is not None and not knob.low <= given <= knob.high:
        return f"{name} must be from {knob.low:g} to {knob.high:g}, got {given:g}"
    return None


def _plain_kind(name: str) -> Any:
    """The type of a setting, without the None of one that may be left out."""
    hint = kinds()[name]
    if isinstance(hint, types.UnionType):
        (hint,) = (kind for kind in typing.get_args(hint) if kind is not types.NoneType)
    return hint


def _is_of(kind: Any, given: Any) -> bool:
    if kind is bool:
        return isinstance(given, bool)
    if kind in (int, float):
        return isinstance(given, int if kind is int else (int, float)) and not isinstance(given, bool)
    if kind in (str, Path):
        return isinstance(given, str)
    assert kind == tuple[str, ...], f"no rule for settings of type {kind}"
    return isinstance(given, list) and all(isinstance(item, str) for item in given)


def _toml(value: Any) -> str:
    """`value` as TOML writes it; what no setting has is shown as Python does, for messages."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | Path):
        # JSON's strings are TOML's, but for one character that TOML wants escaped as well.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value) if isinstance(value, int | float) else str(value)


def _meant(name: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name.replace("-", "_"), list(known), 1, 0.75)), None)


def _listed(words: Collection[str]) -> str:
    return ", ".join(map(_toml, words))


def _service_links(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Variables that Kubernetes made for Services, each with its Service: one comes with a host, and so they are known.

    https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
    """
    links = [name.removesuffix("_SERVICE_HOST") for name in environ if name.endswith("_SERVICE_HOST")]
    for link in (link for link in links if link == "PHISERVE" or link.startswith(_PREFIX)):
        shape = re.compile(rf"{re.escape(link)}_(SERVICE_HOST|SERVICE_PORT(_\w+)?|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
        for variable, value in environ.items():
            if shape.fullmatch(variable) and (variable != f"{link}_PORT" or "://" in value):
                yield variable, link.lower().replace("_", "-")
