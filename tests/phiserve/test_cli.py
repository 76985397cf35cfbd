"""The root command: everything is mounted under one name, and nothing heavy is loaded to say so."""

from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from phiserve import __version__
from phiserve.cli import app


def test_the_version_is_printed() -> None:
    """`--version` prints the package's version and does nothing else."""
    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"phiserve {__version__}\n")


@pytest.mark.parametrize(
    "command",
    [
        "serve",
        "profile",
        "classify",
        "store build",
        "store import",
        "store list",
        "store show",
        "store verify",
        "store evaluate",
    ],
)
def test_every_command_is_there_with_help(command) -> None:
    """Each command explains itself."""
    result = CliRunner().invoke(app, [*command.split(), "--help"], env={"COLUMNS": "200"})
    assert result.exit_code == 0
    assert f"phiserve {command}" in result.stdout.replace("root", "phiserve", 1)
    assert len(result.stdout.splitlines()) > 5


def test_without_a_command_the_commands_are_listed() -> None:
    """A first call shows what there is."""
    result = CliRunner().invoke(app, [])
    for command in ("serve", "profile", "classify", "store"):
        assert command in result.output


def test_an_unknown_command_is_refused() -> None:
    """Exit code 2 and the name that is not one."""
    result = CliRunner().invoke(app, ["server"])
    assert result.exit_code == 2
    assert "server" in result.stderr


def test_help_loads_neither_models_nor_servers() -> None:
    """`phiserve --help` imports no ONNX Runtime, no numpy and no web framework, so that it answers at once."""
    program = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from phiserve.cli import app\n"
        "assert CliRunner().invoke(app, ['serve', '--help']).exit_code == 0\n"
        "print(sorted({'onnxruntime', 'onnx', 'numpy', 'fastapi', 'uvicorn', 'PIL'} & sys.modules.keys()))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
