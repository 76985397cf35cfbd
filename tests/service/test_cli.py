"""Flags and variables reach the settings, and what is wrong is refused before anything is loaded."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import pytest
import typer
import typer.main
import typer.testing
from typer.testing import CliRunner, Result

import service.app
from service.app import StartError
from service.cli import add_server_commands, evaluate
from service.configuration import to_toml
from service.setting_options import setting_flag
from service.settings import Settings, environment_variable, knobs
from tests.fakes.pki import Pki, make_pki

# One value for each setting, unlike its default.
GIVEN = {
    "host": ("localhost", "localhost"),
    "port": ("0", 0),
    "grpc_port": ("0", 0),
    "grpc": ("off", "off"),
    "tls_cert": ("server.pem", Path("server.pem")),
    "tls_key": ("server.key", Path("server.key")),
    "tls_client_ca": ("ca.pem", Path("ca.pem")),
    "trusted_proxies": ("10.0.0.0/8", "10.0.0.0/8"),
    "admin_token_file": ("token", Path("token")),
    "store": ("/somewhere/store", Path("/somewhere/store")),
    "variants": ("lite0", ("lite0",)),
    "allow_untrained": (None, True),
    "provider": ("openvino", "openvino"),
    "workers": ("3", 3),
    "decode_threads": ("4", 4),
    "cuda_graphs": ("on", "on"),
    "resize_threads": ("3", 3),
    "batch_size_max": ("16", 16),
    "memory_limit_mib": ("320", 320),
    "queue_size_max": ("64", 64),
    "queue_bytes_max": ("1048576", 1_048_576),
    "admitted_max": ("600", 600),
    "admitted_per_client_max": ("7", 7),
    "image_bytes_max": ("1000", 1000),
    "body_bytes_max": ("30000000", 30_000_000),
    "image_pixels_max": ("1234567", 1_234_567),
    "images_per_request_max": ("2", 2),
    "http_keepalive_s": ("65", 65),
    "grpc_concurrent_rpcs_max": ("50", 50),
    "grpc_keepalive_s": ("5.5", 5.5),
    "grpc_connection_age_s": ("300", 300.0),
    "stream_frames_max": ("12", 12),
    "stream_in_service_max": ("3", 3),
    "top_k_max": ("9", 9),
    "budget_ms_default": ("12.5", 12.5),
    "budget_ms_max": ("5000", 5000.0),
    "late_wait_ms_max": ("0", 0.0),
    "drain_notice_s": ("2.5", 2.5),
    "drain_timeout_s": ("3", 3.0),
    "reload_core_share": ("0.25", 0.25),
    "log_level": ("error", "error"),
    "log_format": ("json", "json"),
    "access_log": ("0.25", "0.25"),
    "tracing_endpoint": ("http://localhost:4318", "http://localhost:4318"),
    "tracing_ratio": ("0.5", 0.5),
}

# Settings that make no sense alone, with what they need.
NEEDED = {"tls_cert": ("tls_key",), "tls_key": ("tls_cert",), "tls_client_ca": ("tls_cert", "tls_key")}
APP = typer.Typer()
add_server_commands(APP)
APP.command("evaluate")(evaluate)

FREE_PORTS = {"port": 0, "grpc_port": 0}
NO_PORTS = ("--port", "0", "--grpc", "off")


class Commands:
    """`serve` and `profile`, stopped where they would begin to load: `settings` is what came there."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings: Settings | None = None
        self.options: dict[str, object] = {}

        def begin(settings: Settings, progress: object, **options: object) -> None:
            self.settings, self.options = settings, options
            raise StartError("this is as far as it goes")

        monkeypatch.setattr(service.app, "build_server", begin)
        monkeypatch.setattr(service.app, "profile_store", begin)

    def run(self, *arguments: str, **environment: str) -> Result:
        return CliRunner().invoke(APP, arguments, env=environment)

    def accepted(self, *arguments: str, **environment: str) -> Settings:
        result = self.run(*arguments, **environment)
        assert result.stderr.splitlines()[-1:] == ["phiserve: this is as far as it goes"], result.output
        assert result.exit_code == 2
        assert self.settings is not None
        return self.settings


@pytest.fixture(scope="module", autouse=True)
def parser():
    """Made of the commands once for all calls: with its fifty options that takes longer than most of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture(scope="module")
def pki(tmp_path_factory) -> Pki:
    return make_pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def commands(monkeypatch, pki) -> Commands:
    monkeypatch.chdir(pki.folder)
    Path("token").write_text("0123456789abcdef\n")
    for name in GIVEN:
        monkeypatch.delenv(environment_variable(name), raising=False)
    return Commands(monkeypatch)


def expected(name: str) -> Settings:
    return Settings(**(FREE_PORTS | {given: GIVEN[given][1] for given in (*NEEDED.get(name, ()), name)}))


def test_every_setting_is_tested() -> None:
    """A new setting needs a row in the table above."""
    assert list(GIVEN) == [field.name for field in dataclasses.fields(Settings)]
    defaults = dataclasses.asdict(Settings())
    assert [name for name, (_, value) in GIVEN.items() if value == defaults[name]] == []


@pytest.mark.parametrize("name", GIVEN)
def test_a_flag_sets_its_setting_and_no_other(commands, name) -> None:
    """Each field has a flag; the rest keeps its default."""
    arguments = []
    for given in (*(FREE_PORTS.keys() - {name}), *NEEDED.get(name, ()), name):
        text, _ = GIVEN[given]
        arguments += [setting_flag(given)] if text is None else [setting_flag(given), text]
    assert commands.accepted("serve", *arguments) == expected(name)


@pytest.mark.parametrize("name", GIVEN)
def test_a_variable_sets_its_setting_and_no_other(commands, name) -> None:
    """Each field has a `PHISERVE_` variable."""
    given = (*FREE_PORTS, *NEEDED.get(name, ()), name)
    environment = {environment_variable(given): GIVEN[given][0] or "1" for given in given}
    assert commands.accepted("serve", **environment) == expected(name)


@pytest.mark.parametrize("name", GIVEN)
def test_a_file_sets_its_setting_and_no_other(commands, tmp_path, name) -> None:
    """Each field can be a line of the configuration file."""
    wanted = {*FREE_PORTS, *NEEDED.get(name, ()), name}
    lines = to_toml(expected(name), dict.fromkeys(knobs(), "here")).splitlines()
    file = written(tmp_path, *(line for line in lines if line.split(" ")[0] in wanted))
    assert commands.accepted("serve", "--config", file) == expected(name)
    assert commands.accepted("serve", PHISERVE_CONFIG=file) == expected(name)


def written(folder: Path, *lines: str) -> str:
    """The path of a configuration file with these lines."""
    file = folder / "phiserve.toml"
    file.write_text("\n".join(lines) + "\n")
    return str(file)


def test_a_flag_wins_over_a_variable_over_the_file_over_the_default(commands, tmp_path) -> None:
    """The nearer to the command, the stronger; a variable that is set to nothing counts as not set."""
    file = written(tmp_path, "workers = 7", "top_k_max = 7", "queue_size_max = 7", "allow_untrained = true")
    settings = commands.accepted(
        *("serve", *NO_PORTS, "--config", file, "--workers", "2", "--no-allow-untrained"),
        PHISERVE_WORKERS="5",
        PHISERVE_TOP_K_MAX="3",
        PHISERVE_QUEUE_SIZE_MAX="",
    )
    found = (settings.workers, settings.top_k_max, settings.queue_size_max, settings.batch_size_max)
    assert found == (2, 3, 7, Settings().batch_size_max)
    assert not settings.allow_untrained


def test_a_printed_configuration_is_the_same_when_read(commands, tmp_path) -> None:
    """`--print-config` writes a file of what is in force, each line with where it came from, and starts nothing."""
    file = written(tmp_path, "# mine", "", "queue_size_max = 40", 'variants = ["lite0",', '  "b3"]')
    given = ["serve", *NO_PORTS, "--config", file, "--store", '/a folder/with "marks"']
    result = commands.run(*given, "--print-config", PHISERVE_WORKERS="3")
    assert (result.exit_code, result.stderr, commands.settings) == (0, "", None)
    lines = result.stdout.splitlines()
    assert "port = 0  # --port" in lines
    assert "workers = 3  # PHISERVE_WORKERS" in lines
    assert f"queue_size_max = 40  # line 3 of {file}" in lines
    assert f'variants = ["lite0", "b3"]  # line 4 of {file}' in lines
    assert f"top_k_max = {Settings().top_k_max}  # default" in lines
    assert "# tls_cert is not set" in lines
    again = tmp_path / "again.toml"
    again.write_text(result.stdout)
    settings = commands.accepted(*given, PHISERVE_WORKERS="3")
    assert commands.accepted("serve", "--config", str(again)) == settings


def test_a_folder_of_the_user_is_found_whoever_names_it(commands, tmp_path) -> None:
    """No shell expands `~` in a variable or a file, so the command does."""
    store = Path.home() / "models"
    assert commands.accepted("serve", *NO_PORTS, PHISERVE_STORE="~/models").store == store
    assert commands.accepted("serve", *NO_PORTS, "--config", written(tmp_path, 'store = "~/models"')).store == store


def test_a_contradiction_says_where_both_sides_come_from(commands, tmp_path) -> None:
    """Flags are named in any case; what came by a variable or a file is named by that."""
    file = written(tmp_path, "", "admitted_max = 10")
    result = commands.run("serve", *NO_PORTS, "--config", file, PHISERVE_QUEUE_SIZE_MAX="20")
    assert result.exit_code == 2
    assert result.stderr == (
        "phiserve: --admitted-max (10) is below --queue-size-max (20); the queue could never fill "
        f"(--queue-size-max comes from PHISERVE_QUEUE_SIZE_MAX, --admitted-max comes from line 2 of {file})\n"
    )


def test_what_is_wrong_in_file_or_environment_is_refused_before_anything_is_loaded(commands, tmp_path) -> None:
    """Each problem is a line, with the line or the variable to mend; `profile` refuses the same."""
    file = written(tmp_path, "port = 0", "worker = 3", "queue_size_max = 0")
    for command in ("serve", "profile"):
        result = commands.run(command, "--config", file)
        assert result.exit_code == 2
        assert result.stderr == (
            f"phiserve: line 2 of {file}: worker is no setting; did you mean workers?\n"
            f"phiserve: line 3 of {file}: queue_size_max must be from 1 to 100000, got 0\n"
        )
        result = commands.run(command, PHISERVE_WORKER="3")
        assert result.exit_code == 2
        assert result.stderr == "phiserve: PHISERVE_WORKER is no setting; did you mean PHISERVE_WORKERS?\n"
    assert commands.settings is None


def test_several_variants_can_be_named(commands) -> None:
    """The flag is repeated; the variable takes names with spaces between."""
    by_flag = commands.accepted("serve", *NO_PORTS, "--variant", "lite0", "--variant", "b3-fp16")
    by_variable = commands.accepted("serve", *NO_PORTS, PHISERVE_VARIANTS="lite0 b3-fp16")
    assert by_flag.variants == by_variable.variants == ("lite0", "b3-fp16")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--budget", "20"], "--budget"),
        (["--port", "65536"], "65535"),
        (["--workers", "many"], "--workers"),
        (["--provider", "abacus"], "openvino"),
        (["--drain-timeout-s", "-1"], "--drain-timeout-s"),
        (["--budget-ms-default", "nan"], "--budget-ms-default"),
        (["--admitted-max", "1"], "--queue-size-max"),
        (["--grpc", "maybe"], "--grpc"),
        (["--tls-cert", "server.pem"], "add --tls-key FILE"),
        (["--tls-client-ca", "ca.pem"], "add --tls-cert FILE"),
        (["--tls-cert", "server.pem", "--tls-key", "client.key"], "key values mismatch"),
        (["--tls-cert", "nowhere.pem", "--tls-key", "server.key"], "nowhere.pem"),
        (["--admin-token-file", "nowhere"], "cannot read the token in nowhere"),
        (["--admin-token-file", "."], "cannot read the token in ."),
        (["everything"], "everything"),
    ],
)
def test_what_is_not_a_setting_is_refused(commands, arguments, named) -> None:
    """Unknown flags, values out of bounds and contradictions end with 2 and name what is wrong; nothing is loaded."""
    result = commands.run("serve", *arguments)
    assert result.exit_code == 2
    assert named in result.stderr
    assert commands.settings is None


def test_profile_takes_the_settings_that_a_profile_depends_on(commands) -> None:
    """What `serve` would be started with can be measured before; the rest has no flag there."""
    settings = commands.accepted(
        "profile", "--batch-size-max", "2", "--workers", "1", "--force", PHISERVE_PROVIDER="cpu"
    )
    assert settings == Settings(batch_size_max=2, workers=1, provider="cpu")
    assert commands.options == {"force": True}
    assert commands.run("profile", "--port", "1").exit_code == 2


def test_help_names_every_flag_and_variable(commands) -> None:
    """`serve --help` is the reference of the settings."""
    text = commands.run("serve", "--help", COLUMNS="300").stdout
    for name in GIVEN:
        assert setting_flag(name) in text
        assert environment_variable(name) in text


def test_evaluate_without_a_store_is_one_line(commands, tmp_path) -> None:
    """The folder that was looked at is named, and the command that fills it."""
    result = commands.run("evaluate", "--images", str(tmp_path), "--store", str(tmp_path / "none"))
    assert result.exit_code == 2
    assert result.stderr.startswith("phiserve: ")
    assert str(tmp_path / "none") in result.stderr
    assert "phiserve store build" in result.stderr
