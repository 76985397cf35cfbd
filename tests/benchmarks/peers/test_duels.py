"""Who takes part in duels and how, and that a page names the command that made it. No peer is installed for this."""

from __future__ import annotations

import pytest

from benchmarks.peers import duels, environments
from benchmarks.peers.contestants import named


def test_phiserve_has_loaded_no_more_than_its_peers() -> None:
    """Only the variant that is asked for; a peer runs as it does in the other comparison."""
    assert duels.setting_of(named("phiserve")).flags == ("--variant", "{variant}")
    assert duels.setting_of(named("mosec")) == named("mosec").settings[0]


def test_a_peer_that_cannot_be_installed_ends_it_before_anything_is_measured(tmp_path, monkeypatch) -> None:
    """Half a comparison is none: the reason is told, and no page is written."""

    def refuse(command, contestant):
        raise environments.EnvironmentFailed(f"{contestant.title} cannot be installed: no network")

    monkeypatch.setattr(environments, "VENVS", tmp_path / "venvs")
    monkeypatch.setattr(environments, "ROOT", tmp_path)
    monkeypatch.setattr(environments, "_run", refuse)
    monkeypatch.setattr(duels.signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit, match="no comparison: Mosec cannot be installed: no network"):
        duels.main(["--results", str(tmp_path / "results")])
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([], ""),
        (["--quick"], " --quick"),
        (["--rounds", "6", "--peers", "litserve"], " --rounds 6 --peers litserve"),
        (["--variants", "lite2-int8"], " --variants lite2-int8"),
    ],
)
def test_the_page_names_what_was_asked_for(asked: list[str], said: str) -> None:
    """A reader repeats it by its first line; defaults are left out."""
    assert duels.flags_of(duels.parser().parse_args(asked)) == said
