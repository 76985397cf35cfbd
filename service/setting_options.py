"""The options of a command that takes settings: made from `Settings`, so that none exists on one way in alone.

A flag wins over its `PHISERVE_*` variable, that over the configuration file, that over the default: the option parser's
own order, and it remembers which one it was. Checks nothing that `Settings` or `configuration.py` checks.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from service.configuration import (
    CONFIG_VARIABLE,
    ConfigurationError,
    ConfigurationFile,
    check_environment,
    read_configuration_file,
)
from service.settings import Settings, SettingsError, environment_variable, flag, kinds, knobs


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings of one start, and for each where it came from: a flag, a variable, a line of the file, `default`."""

    settings: Settings
    origins: Mapping[str, str]


def fail(message: str) -> typer.Exit:
    """The exception that ends a command after saying why, each line of `message` by itself."""
    for line in message.splitlines():
        typer.echo(f"phiserve: {line}", err=True)
    return typer.Exit(2)


def with_setting_options(command: Callable[..., None], names: Collection[str] | None = None) -> Callable[..., None]:
    """`command` with fields of `Settings` (None: all) as options, each with its flag, variable, help and bounds.

    `command` gets a `Configuration` first, and its own options by name.
    """
    fields = [field for field in dataclasses.fields(Settings) if names is None or field.name in names]
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    def call(context: typer.Context, **values: Any) -> None:
        del values["config"]  # its callback has read it
        given = {field.name: _tidied(field.name, values.pop(field.name)) for field in fields}
        origins = {field.name: _origin(context, field.name) for field in fields}
        try:
            settings = Settings(**given)
        except SettingsError as error:
            raise fail(str(error) + _where(str(error), origins)) from error
        command(Configuration(settings, origins), **values)

    parameters = [_CONTEXT, _CONFIG, *map(_option, fields), *own]
    call.__doc__ = command.__doc__
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined] # typer reads it; mypy has no field
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def setting_flag(name: str) -> str:
    """The flag of a setting: that of several variants is repeated, so it names one."""
    return "--variant" if name == "variants" else flag(name)


def _read_config(context: typer.Context, path: Path | None) -> Path | None:
    """Runs before any other option is read, so that the parser falls back on the file where it has to."""
    if context.resilient_parsing:  # the shell asks for completions
        return path
    try:
        check_environment(os.environ)
        file = ConfigurationFile() if path is None else read_configuration_file(path.expanduser())
    except ConfigurationError as error:
        raise fail(str(error)) from error
    context.default_map = dict(file.values)
    context.obj = file
    return path


_CONTEXT = inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context)
_CONFIG = inspect.Parameter(
    "config",
    inspect.Parameter.KEYWORD_ONLY,
    default=None,
    annotation=Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="TOML file of settings, as --print-config writes it. Flags and variables win over it.",
            envvar=CONFIG_VARIABLE,
            is_eager=True,
            callback=_read_config,
        ),
    ],
)


def _option(field: dataclasses.Field[Any]) -> inspect.Parameter:
    knob = knobs()[field.name]
    many, switch = field.name == "variants", isinstance(field.default, bool)
    option = typer.Option(
        # One that a file may switch on can be switched off by a flag.
        setting_flag(field.name) + (f"/--no-{flag(field.name).removeprefix('--')}" if switch else ""),
        help=knob.help,
        envvar=environment_variable(field.name),
        min=knob.low,
        max=knob.high,
        # The default store depends on the machine the help is read on.
        show_default=field.default_factory is dataclasses.MISSING,
    )
    kind: Any = list[str] if many else kinds()[field.name]
    default = None if many else _default(field)
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, option]
    )


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _tidied(name: str, value: Any) -> Any:
    """As `Settings` has it: only a shell would have expanded `~`, and nobody does in a variable or a file."""
    if name == "variants":
        return tuple(value or ())
    return value.expanduser() if isinstance(value, Path) else value


def _origin(context: typer.Context, name: str) -> str:
    source = context.get_parameter_source(name)
    kind = "DEFAULT" if source is None else source.name
    if kind == "COMMANDLINE":
        return setting_flag(name)
    if kind == "ENVIRONMENT":
        return environment_variable(name)
    if kind == "DEFAULT_MAP":
        file: ConfigurationFile = context.obj
        return file.origin(name)
    return "default"


def _where(message: str, origins: Mapping[str, str]) -> str:
    """Where the settings whose flags `message` names were set, as far as that was not by those flags."""
    named = set(re.findall(r"--[a-z0-9-]+", message))
    elsewhere = [
        f"{setting_flag(name)} comes from {origin}"
        for name, origin in origins.items()
        if setting_flag(name) in named and origin not in ("default", setting_flag(name))
    ]
    return f" ({', '.join(elsewhere)})" if elsewhere else ""
