"""hub_download.py: the hub's real client against a hub on loopback, and everything that can go wrong on the way."""

import hashlib
import sys

import pytest

from model_store.hub_download import HubError, fetch_weights
from tests.model_store.fakes.hub_server import COMMIT


def test_the_file_comes_with_its_commit_hash_and_licence(hub):
    """A download returns the bytes, pinned to the commit that `main` means, with the model card's licence."""
    file = fetch_weights(hub.repository)
    assert file.content == hub.content
    assert file.sha256 == hashlib.sha256(hub.content).hexdigest()
    assert file.commit == COMMIT
    assert file.licence == "apache-2.0"
    assert file.url.endswith(f"{hub.repository}/tree/{COMMIT}")
    assert all(path.startswith(("/api", "/cdn")) or COMMIT in path for _, path, _ in hub.requests)


def test_a_second_download_comes_from_the_cache(hub):
    """The same commit is not downloaded twice."""
    fetch_weights(hub.repository)
    assert fetch_weights(hub.repository).content == hub.content
    assert len(hub.ranges()) == 1


def test_a_cut_connection_is_resumed(hub):
    """When the connection is cut, only the rest is asked for, and the whole is verified."""
    hub.cut_after_bytes = 4500
    assert fetch_weights(hub.repository).content == hub.content
    first, second = hub.ranges()
    assert first is None
    assert second == "bytes=4000-"


def test_a_server_without_ranges_still_works(hub):
    """A mirror that ignores ranges sends everything again, and the result is still whole."""
    hub.cut_after_bytes, hub.ignores_ranges = 4500, True
    assert fetch_weights(hub.repository).content == hub.content


def test_wrong_bytes_are_refused_and_forgotten(hub):
    """Bytes that do not have the listed sha256 are refused and deleted, so that the next try downloads anew."""
    good = hub.content
    hub.listed_sha256 = hub.sha256
    hub.content = good[:-1] + b"!"
    with pytest.raises(HubError, match=r"has sha256 .* the hub lists .* run the command again"):
        fetch_weights(hub.repository)
    hub.content = good
    assert fetch_weights(hub.repository).content == good


def test_a_file_without_a_listed_hash_is_not_downloaded(hub):
    """Where the hub lists no sha256 nothing is downloaded, since nothing could be verified."""
    hub.lists_hash = False
    with pytest.raises(HubError, match=r"could not be verified; .*store import"):
        fetch_weights(hub.repository)
    assert hub.ranges() == []


def test_an_unstated_licence_is_said_to_be_unstated(hub):
    """A model card without a licence is not taken for a permission."""
    hub.licence = None
    assert fetch_weights(hub.repository).licence == "unstated"


def test_an_unknown_repository_is_named(hub):
    """A repository that the hub does not have is one clear error with the hub's address."""
    with pytest.raises(HubError, match=rf"{hub.endpoint} has no public repository timm/nothing; .*hf auth login"):
        fetch_weights("timm/nothing")


def test_an_unknown_revision_is_refused(hub):
    """A revision that is not there is an error, not the default revision."""
    with pytest.raises(HubError):
        fetch_weights(hub.repository, revision="v9")
    assert hub.ranges() == []


def test_a_gated_repository_says_how_to_get_in(hub):
    """A gated repository says where its terms are and how to log in."""
    hub.gated = True
    with pytest.raises(
        HubError, match=rf"is gated: accept its terms at {hub.endpoint}/{hub.repository}.*hf auth login"
    ):
        fetch_weights(hub.repository)


def test_a_failing_hub_is_one_sentence(hub):
    """A hub that answers with a server error is named with its status."""
    hub.status = 500
    with pytest.raises(HubError, match=rf"{hub.endpoint} answered 500"):
        fetch_weights(hub.repository)


def test_an_unreachable_hub_says_what_would_have_worked(hub, monkeypatch):
    """With nothing listening at HF_ENDPOINT, one line names the address and the ways around it."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubError) as refusal:
        fetch_weights(hub.repository)
    message = str(refusal.value)
    assert "http://127.0.0.1:9" in message
    assert "HF_ENDPOINT" in message
    assert "store import" in message
    assert "\n" not in message


def test_without_the_extra_the_install_command_is_named(monkeypatch):
    """Without the hub's client the error is the pip command that installs it."""
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(HubError, match=r"pip install 'phiserve\[hub\]'"):
        fetch_weights("timm/x")
