"""store_root.py: where the store is when nobody says."""

from pathlib import Path

from model_store.store_root import default_store_root


def test_the_variable_wins(tmp_path):
    """$PHISERVE_STORE decides, also in a source checkout, and `~` in it is the home folder."""
    (tmp_path / "pyproject.toml").touch()
    package = tmp_path / "model_store"
    assert default_store_root({"PHISERVE_STORE": "/srv/store"}, package) == Path("/srv/store")
    assert default_store_root({"PHISERVE_STORE": "~/s"}, package) == Path.home() / "s"


def test_a_checkout_keeps_its_store_beside_the_package(tmp_path):
    """In a source checkout the store is `artifacts/` in the package, whatever the cache is set to."""
    (tmp_path / "pyproject.toml").touch()
    root = default_store_root({"XDG_CACHE_HOME": "/cache"}, tmp_path / "model_store")
    assert root == tmp_path / "model_store" / "artifacts"


def test_an_installed_package_uses_the_users_cache(tmp_path):
    """An installed package's store is in $XDG_CACHE_HOME, or in ~/.cache where that is unset or relative."""
    package = tmp_path / "model_store"
    assert default_store_root({"XDG_CACHE_HOME": "/cache"}, package) == Path("/cache/phiserve/store")
    for environ in ({}, {"XDG_CACHE_HOME": ""}, {"XDG_CACHE_HOME": "cache"}, {"PHISERVE_STORE": ""}):
        assert default_store_root(environ, package) == Path.home() / ".cache" / "phiserve" / "store"
