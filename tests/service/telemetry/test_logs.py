"""Log lines: one for each record, whatever it holds, with the request's id and without image bytes."""

from __future__ import annotations

import contextvars
import io
import json
import logging
import sys
from collections.abc import Iterator

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from service.telemetry.logs import (
    MESSAGE_LENGTH_MAX,
    JsonFormatter,
    LogFormat,
    TextFormatter,
    bind_request_id,
    bind_trace,
    configure_logging,
)

LOGGERS = ("", "uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi", "PIL", "python_multipart")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """A stream to log to; afterwards logging is as it was."""
    before = {
        name: (logger.handlers[:], logger.level, logger.propagate, logger.disabled)
        for name in LOGGERS
        for logger in [logging.getLogger(name)]
    }
    yield io.StringIO()
    logging.captureWarnings(capture=False)
    for name, (handlers, level, propagate, disabled) in before.items():
        logger = logging.getLogger(name)
        logger.handlers[:] = handlers
        logger.setLevel(level)
        logger.propagate, logger.disabled = propagate, disabled


def record(message: object, *arguments: object, **extra: object) -> logging.LogRecord:
    return logging.getLogger("t").makeRecord("t", logging.WARNING, "t.py", 1, message, arguments, None, extra=extra)


def as_json(entry: logging.LogRecord) -> dict[str, object]:
    text = JsonFormatter().format(entry)
    assert "\n" not in text
    return json.loads(text)


def with_request_id(value: str, entry: logging.LogRecord, formatter: logging.Formatter) -> str:
    def run() -> str:
        bind_request_id(value)
        return formatter.format(entry)

    return contextvars.copy_context().run(run)


def test_a_json_line_has_its_fields() -> None:
    """Time in UTC, level, logger, the finished message and extras; no request id outside of a request."""
    entry = record("loaded %s in %d ms", "lite0", 12, variant="lite0")
    entry.created = 1_700_000_000.5
    assert as_json(entry) == {
        "time": "2023-11-14T22:13:20.500+00:00",
        "level": "warning",
        "logger": "t",
        "message": "loaded lite0 in 12 ms",
        "variant": "lite0",
    }


def test_lines_of_a_request_carry_its_id() -> None:
    """Inside a request's context both formats show the bound id; contexts do not share it."""
    assert json.loads(with_request_id("abc", record("x"), JsonFormatter()))["request_id"] == "abc"
    assert with_request_id("abc", record("x"), TextFormatter()).endswith("t: x [abc]")
    assert "request_id" not in as_json(record("x"))


def test_lines_of_a_trace_carry_its_ids() -> None:
    """Inside a trace's context lines show its ids, and the span's where there is one; nothing can overwrite them."""

    def format_in_trace(entry: logging.LogRecord, formatter: logging.Formatter, *ids: str) -> str:
        def run() -> str:
            bind_trace(*ids)
            return formatter.format(entry)

        return contextvars.copy_context().run(run)

    line = json.loads(format_in_trace(record("x", trace_id="forged"), JsonFormatter(), "a" * 32, "b" * 16))
    assert (line["trace_id"], line["span_id"]) == ("a" * 32, "b" * 16)
    line = json.loads(format_in_trace(record("x"), JsonFormatter(), "a" * 32))
    assert (line["trace_id"], "span_id" in line) == ("a" * 32, False)
    assert format_in_trace(record("x"), TextFormatter(), "a" * 32).endswith(f"t: x [trace {'a' * 32}]")
    assert "trace" not in TextFormatter().format(record("x"))


@pytest.mark.parametrize("secret", [b"\xff\xd8secret", bytearray(b"secret"), memoryview(b"secret")])
def test_bytes_are_shown_by_length(secret) -> None:
    """An image handed to a log call, as argument, message or extra, never reaches the log."""
    for entry in (
        record("image %s", secret),
        record("image %(image)s", {"image": secret}),
        record(secret),
        record("x", image=secret),
        record("x", images=[secret]),
    ):
        text = JsonFormatter().format(entry)
        assert "secret" not in text
        assert f"<{len(secret)} bytes>" in text
        assert "secret" not in TextFormatter().format(entry)


@pytest.mark.parametrize("formatter", [JsonFormatter(), TextFormatter()], ids=["json", "text"])
def test_an_exception_is_shown_with_its_traceback(formatter) -> None:
    """What went wrong and where is part of the line that reports it."""
    try:
        int("no number")
    except ValueError:
        entry = logging.getLogger("t").makeRecord("t", logging.ERROR, "t.py", 1, "failed", (), sys.exc_info())
    text = formatter.format(entry)
    assert "failed" in text
    assert "ValueError: invalid literal" in text
    assert "test_logs.py" in text


def test_a_caller_cannot_forge_a_line() -> None:
    """Line ends and terminal escapes inside a message stay inside its line, visibly."""
    text = TextFormatter().format(record("path %s", "/a\n12:00:00 ERROR forged\x1b[31m"))
    assert "\n" not in text
    assert "\x1b" not in text
    assert r"\n12:00:00" in text


def test_an_endless_message_is_cut() -> None:
    """A message of unbounded length does not become a line of unbounded length."""
    assert len(as_json(record("%s", "x" * 10 * MESSAGE_LENGTH_MAX))["message"]) == MESSAGE_LENGTH_MAX + 1


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=5,
)


@given(message=st.text(st.characters()), extra=values)
def test_every_record_becomes_one_line_of_json(message, extra) -> None:
    """Whatever a record holds, lone surrogates and huge integers included, it is one line that parses."""
    parsed = as_json(record("%s", message, thing=extra, other=object()))
    assert {"time", "level", "logger", "message", "thing", "other"} == set(parsed)


def test_configured_logging_writes_to_the_stream(stream) -> None:
    """Records at the level and above are written, one a line; those below are not."""
    configure_logging(level=logging.INFO, log_format=LogFormat.JSON, stream=stream)
    logging.getLogger("service.somewhere").info("kept")
    logging.getLogger("service.somewhere").debug("dropped")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["kept"]


def test_configuring_again_replaces_the_handler(stream) -> None:
    """A second call changes the format instead of writing every line twice."""
    configure_logging(log_format=LogFormat.JSON, stream=stream)
    configure_logging(log_format=LogFormat.TEXT, stream=stream)
    logging.getLogger("service").warning("once")
    (line,) = stream.getvalue().splitlines()
    assert line.endswith("WARNING service: once")


def test_the_format_follows_the_stream(stream) -> None:
    """AUTO writes text to a terminal and JSON to anything else."""
    configure_logging(stream=stream)
    logging.getLogger("service").warning("for machines")
    assert json.loads(stream.getvalue())["message"] == "for machines"
    stream.isatty = lambda: True
    configure_logging(stream=stream)
    logging.getLogger("service").warning("for people")
    assert stream.getvalue().splitlines()[-1].endswith("service: for people")


def test_uvicorns_lines_go_the_same_way(stream) -> None:
    """After uvicorn configured itself its messages come out in our format once, and its access log not at all."""
    uvicorn.Config("unused:app")  # with its default log_config, which installs handlers of its own
    configure_logging(log_format=LogFormat.JSON, stream=stream)
    logging.getLogger("uvicorn.error").info("Uvicorn running")
    logging.getLogger("uvicorn.access").info('"GET / HTTP/1.1" 200')
    assert [json.loads(line)["logger"] for line in stream.getvalue().splitlines()] == ["uvicorn.error"]


def test_libraries_that_show_what_they_parse_are_heard_from_warnings_on(stream) -> None:
    """At debug level our own details are written, and not what Pillow finds in a photograph; its warnings are."""
    configure_logging(level=logging.DEBUG, log_format=LogFormat.JSON, stream=stream)
    logging.getLogger("service.somewhere").debug("ours")
    logging.getLogger("PIL.TiffImagePlugin").debug("tag: GPSLatitude - value: 52.5")
    logging.getLogger("python_multipart.multipart").info("Opening file: passport.jpg")
    logging.getLogger("PIL.Image").warning("theirs")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["ours", "theirs"]
