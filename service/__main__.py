"""`python -m service`: the same as `phiserve serve`."""

from __future__ import annotations

import typer

from service.cli import serve_command

typer.run(serve_command)
