"""Scripts of `deploy/`, which is no package, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

DEPLOY = Path(__file__).parents[2] / "deploy"


def load(path: str) -> ModuleType:
    """The script at `path` under `deploy/`, imported and not run."""
    name = "deploy_" + Path(path).stem
    spec = importlib.util.spec_from_file_location(name, DEPLOY / path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def dashboard_source() -> ModuleType:
    return load("grafana/dashboard.py")


@pytest.fixture(scope="session")
def healthcheck() -> ModuleType:
    return load("container/healthcheck.py")
