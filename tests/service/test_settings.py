"""Settings are checked where they are made: bounds, contradictions, and a name on every way in."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.settings import Settings, SettingsError, access_log_share, environment_variable, flag, knobs

BOUNDED = {name: knob for name, knob in knobs().items() if knob.low is not None}
# Partners that a setting may be compared with, out of the way.
ROOMY = {
    "budget_ms_default": 1,
    "budget_ms_max": 3_600_000,
    "body_bytes_max": 2**31,
    "image_bytes_max": 1,
    "admitted_max": 100_000,
    "queue_size_max": 1,
    "stream_frames_max": 10_000,
    "stream_in_service_max": 1,
}


def test_defaults_are_valid_and_local() -> None:
    """Nothing need be set: the server listens on loopback only and serves no untrained variant."""
    settings = Settings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert settings.allow_untrained is False
    assert settings.variants == ()


def test_every_setting_has_help_and_every_number_both_bounds() -> None:
    """A setting without help or with one bound missing is a mistake of ours."""
    for field in dataclasses.fields(Settings):
        knob = knobs()[field.name]
        assert knob.help.endswith("."), field.name
        is_number = isinstance(field.default, int | float) and not isinstance(field.default, bool)
        assert (knob.low is not None) is is_number, field.name
        assert (knob.high is not None) is is_number, field.name
    assert list(knobs()) == [field.name for field in dataclasses.fields(Settings)]


@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_belong_to_the_range(name) -> None:
    """Both ends of a range are allowed."""
    for value in (BOUNDED[name].low, BOUNDED[name].high):
        assert getattr(Settings(**(ROOMY | {name: value})), name) == value


@pytest.mark.parametrize("name", BOUNDED)
def test_beyond_the_bounds_the_flag_and_the_range_are_named(name) -> None:
    """One below and one above are refused with what would have worked."""
    knob = BOUNDED[name]
    for value in (knob.low - 1, knob.high + 1):
        with pytest.raises(SettingsError) as caught:
            Settings(**{name: value})
        assert str(caught.value) == f"{flag(name)} must be from {knob.low:g} to {knob.high:g}, got {value:g}"


@given(st.sampled_from(sorted(BOUNDED)), st.floats())
def test_any_number_is_taken_or_refused_by_its_bounds(name, value) -> None:
    """Infinities and NaN are never within bounds, and nothing else decides."""
    knob = BOUNDED[name]
    if knob.low <= value <= knob.high:
        assert getattr(Settings(**(ROOMY | {name: value})), name) == value
    else:
        with pytest.raises(SettingsError, match=flag(name)):
            Settings(**(ROOMY | {name: value}))


@pytest.mark.parametrize(
    "contradiction",
    [
        {"budget_ms_default": 500, "budget_ms_max": 100},
        {"body_bytes_max": 1000, "image_bytes_max": 2000},
        {"admitted_max": 10, "queue_size_max": 20},
        {"stream_frames_max": 4, "stream_in_service_max": 8},
    ],
    ids=" ".join,
)
def test_contradictions_name_both_flags(contradiction) -> None:
    """Two settings that are fine alone and make no sense together are refused, and equal ones are not."""
    with pytest.raises(SettingsError) as caught:
        Settings(**contradiction)
    assert all(flag(name) in str(caught.value) for name in contradiction)
    assert all(f"{value}" in str(caught.value) for value in contradiction.values())
    first, second = contradiction
    Settings(**{first: contradiction[second], second: contradiction[second]})


@pytest.mark.parametrize(
    ("given", "missing"),
    [({"tls_cert"}, "--tls-key"), ({"tls_key"}, "--tls-cert"), ({"tls_client_ca"}, "--tls-cert")],
)
def test_half_of_tls_is_refused_with_the_other_half(given, missing) -> None:
    """A server that was meant to be secure never starts without TLS; all three together are fine."""
    with pytest.raises(SettingsError, match=f"add {missing} FILE"):
        Settings(**dict.fromkeys(given, Path("some.pem")))
    Settings(**dict.fromkeys(("tls_cert", "tls_key", "tls_client_ca"), Path("some.pem")))


@pytest.mark.parametrize("text", ["proxy.internal", "10.0.0.7/8", "10.0.0.1;10.0.0.2"])
def test_proxies_are_addresses_and_networks(text) -> None:
    """A name, host bits in a network, or another separator is refused with what would be taken."""
    with pytest.raises(SettingsError, match=r"--trusted-proxies: .*such as 10\.0\.0\.7,192\.168\.0\.0/16"):
        Settings(trusted_proxies=text)
    assert Settings(trusted_proxies="10.0.0.7, 192.168.0.0/16").trusted_proxies


def test_settings_do_not_change() -> None:
    """What was read at the edge stays as it was read."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1


def test_names_of_flags_and_variables_follow_the_field() -> None:
    """One rule makes both names."""
    assert flag("budget_ms_default") == "--budget-ms-default"
    assert environment_variable("budget_ms_default") == "PHISERVE_BUDGET_MS_DEFAULT"


def test_not_a_number_is_out_of_bounds() -> None:
    """NaN compares with nothing, which must not let it through."""
    with pytest.raises(SettingsError, match="got nan"):
        Settings(drain_timeout_s=math.nan)


@pytest.mark.parametrize(("text", "share"), [("off", None), ("errors", 0.0), ("0", 0.0), ("0.25", 0.25), ("1", 1.0)])
def test_the_access_log_is_off_or_errors_or_a_share(text, share) -> None:
    """`errors` is a share of 0: exchanges with an error are written whatever the share."""
    assert access_log_share(Settings(access_log=text).access_log) == share


@pytest.mark.parametrize("text", ["", "on", "-0.1", "1.1", "nan", "inf", "50%"])
def test_any_other_access_log_is_refused(text) -> None:
    """What was meant is not guessed."""
    with pytest.raises(SettingsError, match=r"--access-log must be off, errors, or a share from 0 to 1, got "):
        Settings(access_log=text)


@pytest.mark.parametrize(
    "text", ["", "localhost:4318", "grpc://localhost:4317", "http://", "http://[::1", "http://a/?b"]
)
def test_spans_are_sent_to_a_url_of_http_only(text) -> None:
    """OTLP goes over HTTP here: a host without a scheme, or gRPC's port, is refused at start."""
    with pytest.raises(SettingsError, match="--tracing-endpoint must be a URL such as http://localhost:4318, got "):
        Settings(tracing_endpoint=text)
