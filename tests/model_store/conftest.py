"""Fixtures of the store's tests."""

import time
from types import SimpleNamespace

import pytest

from tests.model_store.fakes.hub_server import Hub, serve


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on loopback that HF_ENDPOINT points to, with an empty cache and a client that does not wait to retry."""
    file_download = pytest.importorskip("huggingface_hub.file_download")
    monkeypatch.setattr(file_download.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(file_download.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    impatient = SimpleNamespace(**{**vars(time), "sleep": lambda _: None})
    monkeypatch.setattr(file_download, "time", impatient)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with serve(Hub("timm/tf_efficientnet_b0.ns_jft_in1k", bytes(range(256)) * 40)) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
