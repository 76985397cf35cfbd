"""The configuration file is read strictly, with the line of everything that is wrong, and written so that it reads."""

from __future__ import annotations

import dataclasses
import typing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.configuration import (
    FILE_BYTES_MAX,
    ConfigurationError,
    check_environment,
    read_configuration_file,
    to_toml,
)
from service.settings import Settings, SettingsError, environment_variable, knobs

ORIGINS = dict.fromkeys(knobs(), "somewhere")
LINKS = {
    "PHISERVE_X_SERVICE_HOST": "10.96.0.7",
    "PHISERVE_X_SERVICE_PORT": "8000",
    "PHISERVE_X_SERVICE_PORT_HTTP": "8000",
    "PHISERVE_X_PORT": "tcp://10.96.0.7:8000",
    "PHISERVE_X_PORT_8000_TCP": "tcp://10.96.0.7:8000",
    "PHISERVE_X_PORT_8000_TCP_PROTO": "tcp",
    "PHISERVE_X_PORT_8000_TCP_PORT": "8000",
    "PHISERVE_X_PORT_8000_TCP_ADDR": "10.96.0.7",
}


def read(folder: Path, text: str | bytes):
    file = folder / "phiserve.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_configuration_file(file)


def refusal(folder: Path, text: str | bytes) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(folder, text)
    return str(caught.value).replace(f"{folder}/", "")


def test_each_value_has_its_line(tmp_path) -> None:
    """Comments, blank lines and values over several lines count; the line is that where the setting begins."""
    text = '# a = 1\n\nhost = """\\\n  ::1"""\nvariants = [ # two\n  "lite0",\n\n  "b3",\n]\n"port" = 1 # last\r\n'
    file = read(tmp_path, text)
    assert file.values == {"host": "::1", "variants": ["lite0", "b3"], "port": 1}
    assert file.lines == {"host": 3, "variants": 5, "port": 10}
    assert file.origin("port") == f"line 10 of {tmp_path}/phiserve.toml"


def test_an_empty_file_sets_nothing(tmp_path) -> None:
    """A file may be there before anybody has a wish."""
    assert read(tmp_path, "").values == read(tmp_path, "\n# nothing yet\n").values == {}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("budget_ms_defalt = 5", "budget_ms_defalt is no setting; did you mean budget_ms_default?"),
        ("drain-notice-s = 5", "drain-notice-s is no setting; did you mean drain_notice_s?"),
        ("abacus = 5", "abacus is no setting; `phiserve serve --print-config` shows all there are"),
        ('port = "8000"', 'port must be a whole number, got "8000"'),
        ("port = 8000.0", "port must be a whole number, got 8000.0"),
        ("port = true", "port must be a whole number, got true"),
        ("port = 65536", "port must be from 0 to 65535, got 65536"),
        ("drain_notice_s = nan", "drain_notice_s must be from 0 to 3600, got nan"),
        ("drain_notice_s = 1979-05-27", "drain_notice_s must be a number, got 1979-05-27"),
        ("host = 1", "host must be a string, got 1"),
        ("store = []", "store must be a path as a string, got []"),
        ('variants = "lite0"', 'variants must be an array of strings, got "lite0"'),
        ("variants = [1]", "variants must be an array of strings, got [1]"),
        ('allow_untrained = "yes"', 'allow_untrained must be true or false, got "yes"'),
        ("grpc = true", 'grpc must be one of "on", "off", got true'),
        ('log_level = "loud"', 'log_level must be one of "debug", "info", "warning", "error", got "loud"'),
        ("[serve]\nport = 1", "serve is a table, and settings are in none; write them at the top, such as port = 8000"),
    ],
)
def test_what_cannot_be_set_is_said_with_its_line(tmp_path, line, problem) -> None:
    """Unknown names, wrong types and values out of bounds, each with what would have been right."""
    assert refusal(tmp_path, f"queue_size_max = 5\n\n{line}\n") == f"line 3 of phiserve.toml: {problem}"


def test_everything_wrong_is_said_at_once(tmp_path) -> None:
    """One start shows all that there is to mend, in the order of the file."""
    problems = refusal(tmp_path, "wrkers = 1\nport = -1\ntop_k_max = 3\nhost = 2\n").splitlines()
    assert [problem.split(" of ")[0] for problem in problems] == ["line 1", "line 2", "line 4"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = \n", "line 1"),
        ("port = 1\nport = 2\n", "line 2"),
        (b"host = '\xff'\n", "no TOML file"),
        (b" " * (FILE_BYTES_MAX + 1), "no configuration file"),
    ],
)
def test_what_is_no_toml_is_refused(tmp_path, text, said) -> None:
    """Broken syntax, a setting given twice, other bytes than UTF-8, and a file of any length."""
    assert said in refusal(tmp_path, text)


def test_a_file_that_is_not_there_is_named(tmp_path) -> None:
    """Whoever named it sees the path that was tried and the reason."""
    with pytest.raises(ConfigurationError, match=r"cannot read the configuration file .*nowhere\.toml: No such file"):
        read_configuration_file(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigurationError, match="Is a directory"):
        read_configuration_file(tmp_path)


# Strings of which hardly any is valid.
SAMPLES = {"access_log": ("off", "errors", "0.5"), "tracing_endpoint": ("http://localhost:4318", "https://a.example/b")}


def values_of(name: str) -> st.SearchStrategy:
    """Values that the field `name` may have, whatever the others are."""
    knob, kind = knobs()[name], typing.get_type_hints(Settings)[name]
    if name in SAMPLES:
        return st.sampled_from(SAMPLES[name])
    if typing.get_origin(kind) is typing.Literal:
        return st.sampled_from(typing.get_args(kind))
    return {
        int: st.integers(int(knob.low or 0), int(knob.high or 0)),
        float: st.floats(knob.low, knob.high),
        bool: st.booleans(),
        str: st.text(st.characters(exclude_categories=["Cs"])),
        tuple[str, ...]: st.lists(st.text(st.characters(exclude_categories=["Cs"]))).map(tuple),
    }.get(kind, st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).map(Path))


@given(st.fixed_dictionaries({}, optional={name: values_of(name) for name in knobs()}))
def test_what_is_written_reads_the_same(tmp_path_factory, values) -> None:
    """Any settings that are valid, whatever is in their strings, come back from the file that they were written to."""
    try:
        settings = Settings(**values)
    except SettingsError:
        return
    file = tmp_path_factory.mktemp("written") / "phiserve.toml"
    file.write_text(to_toml(settings, ORIGINS), newline="")
    found = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in read_configuration_file(file).values.items()
    }
    expected = dataclasses.asdict(settings)
    assert found == {
        name: str(value) if isinstance(value, Path) else value for name, value in expected.items() if value is not None
    }


def test_variables_of_settings_and_of_the_command_are_known() -> None:
    """Settings, the file's own variable, the clients' server, and whatever does not begin as ours does."""
    check_environment({environment_variable(name): "1" for name in knobs()})
    check_environment(
        {"PHISERVE_CONFIG": "a", "PHISERVE_URL": "b", "PATH": "c", "MY_PHISERVE_X": "d", "PHISERVER": "e"}
    )


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("PHISERVE_WORKER", "PHISERVE_WORKER is no setting; did you mean PHISERVE_WORKERS?"),
        ("PHISERVE_DRAIN-NOTICE-S", "PHISERVE_DRAIN-NOTICE-S is no setting; did you mean PHISERVE_DRAIN_NOTICE_S?"),
        ("PHISERVE_ABACUS", "PHISERVE_ABACUS is no setting; unset it, or see `phiserve serve --help`"),
        ("PHISERVE_X_PORT", "PHISERVE_X_PORT is no setting"),
    ],
)
def test_a_variable_that_sets_nothing_is_refused(variable, said) -> None:
    """With the one that was probably meant, also if its value looks like nothing of ours."""
    with pytest.raises(ConfigurationError) as caught:
        check_environment({variable: "tcp://10.96.0.7:8000"})
    assert said in str(caught.value)


def test_services_of_a_cluster_do_not_keep_a_pod_from_starting() -> None:
    """What Kubernetes sets for a Service `phiserve-x` that somebody made is passed over."""
    check_environment(LINKS)
    check_environment({name.replace("_X_", "_Y_Z_"): value for name, value in LINKS.items()} | LINKS)


def test_a_service_that_takes_the_name_of_a_setting_is_refused_with_the_way_out() -> None:
    """A Service `phiserve` sets PHISERVE_PORT to an address, and one `phiserve-grpc` PHISERVE_GRPC_PORT."""
    for service, setting in (("PHISERVE", "PHISERVE_PORT"), ("PHISERVE_GRPC", "PHISERVE_GRPC_PORT")):
        with pytest.raises(ConfigurationError) as caught:
            check_environment({name.replace("PHISERVE_X", service): value for name, value in LINKS.items()})
        assert str(caught.value) == (
            f"{setting}=tcp://10.96.0.7:8000 is what Kubernetes sets for a Service named "
            f"{service.lower().replace('_', '-')}, and the name of a setting too; "
            "say enableServiceLinks: false in the pod's spec"
        )
    check_environment({"PHISERVE_SERVICE_HOST": "10.96.0.7", "PHISERVE_PORT": "8000"})
