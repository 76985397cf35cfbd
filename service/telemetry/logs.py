"""Log lines: JSON for machines or text for a terminal, each with the ids of the request and the trace it belongs to.

All loggers of the process go through one handler, uvicorn's included. What is logged is what the code says: no
image bytes (bytes are shown by their length only) and no request bodies. The access log is `access_log.py`'s.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TextIO

import orjson

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_trace: ContextVar[dict[str, str]] = ContextVar("trace", default={})  # noqa: B039 never changed, only replaced

# What every record has; anything else on a record came by `extra=` and belongs into the line.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}

_UVICORN = ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi")

# Below warnings these write what they parse: Pillow the value of every EXIF tag, where a photograph was taken among
# them, and python-multipart the names of files.
_TALKATIVE = ("PIL", "python_multipart")

MESSAGE_LENGTH_MAX = 10_000


class LogFormat(StrEnum):
    """How log lines look. `AUTO`: text on a terminal, else JSON."""

    AUTO = "auto"
    JSON = "json"
    TEXT = "text"


def bind_request_id(request_id: str) -> None:
    """From here on, log lines written in the current context (a task and those it starts) carry `request_id`."""
    _request_id.set(request_id)


def bind_trace(trace_id: str, span_id: str | None = None) -> None:
    """As `bind_request_id`, for the trace (32 hex digits) and the span (16) that the context's work belongs to."""
    _trace.set({"trace_id": trace_id} if span_id is None else {"trace_id": trace_id, "span_id": span_id})


def configure_logging(
    *, level: int = logging.INFO, log_format: LogFormat = LogFormat.AUTO, stream: TextIO | None = None
) -> None:
    """Send everything at `level` and above to `stream` (standard error) through one handler.

    Takes over uvicorn's loggers, so run uvicorn with `log_config=None`. Its access log is switched off: ours knows the
    answers. Libraries that log what they parse are heard from warnings on, whatever `level` is. Calling again replaces
    the previous configuration.
    """
    stream = stream or sys.stderr
    if log_format is LogFormat.AUTO:
        log_format = LogFormat.TEXT if stream.isatty() else LogFormat.JSON
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    for previous in root.handlers[:]:
        if isinstance(previous.formatter, JsonFormatter | TextFormatter):
            root.removeHandler(previous)
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    for name in _UVICORN:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    logging.getLogger("uvicorn.access").disabled = True
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


class JsonFormatter(logging.Formatter):
    """One JSON object a line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, ids, extras, `error`.

    The ids are `request_id`, and `trace_id` and `span_id` where there is a trace: the names that backends link by.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its line end."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if (current := _request_id.get()) is not None:
            line["request_id"] = current
        line |= _trace.get()
        line |= {name: value for name, value in vars(record).items() if name not in _STANDARD | line.keys()}
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=_shown, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:
            # Lone surrogates and integers beyond 64 bits, which orjson refuses; a line must not be lost to them.
            return json.dumps(line, default=_shown, skipkeys=True)


class TextFormatter(logging.Formatter):
    """One line for people: local time, level, logger, message, request id; a traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; control characters in the message are escaped, so that a caller cannot forge another line."""
        moment = time.strftime("%H:%M:%S", time.localtime(record.created))
        message = "".join(char if char.isprintable() else repr(char)[1:-1] for char in _message(record))
        line = f"{moment}.{int(record.msecs):03d} {record.levelname:<7} {record.name}: {message}"
        if (current := _request_id.get()) is not None:
            line += f" [{current}]"
        if trace := _trace.get():
            line += f" [trace {trace['trace_id']}]"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def _message(record: logging.LogRecord) -> str:
    """The message with its arguments, bytes among them shown by length."""
    if isinstance(record.args, tuple):
        arguments: Any = tuple(_without_bytes(argument) for argument in record.args)
    elif isinstance(record.args, dict):
        arguments = {name: _without_bytes(argument) for name, argument in record.args.items()}
    else:
        arguments = record.args
    message = str(_without_bytes(record.msg))
    message = message % arguments if arguments else message
    return message if len(message) <= MESSAGE_LENGTH_MAX else message[:MESSAGE_LENGTH_MAX] + "…"


def _without_bytes(value: Any) -> Any:
    return f"<{len(value)} bytes>" if isinstance(value, bytes | bytearray | memoryview) else value


def _shown(value: Any) -> Any:
    """What JSON has no form for: bytes by their length, all else as its author prints it."""
    shown = _without_bytes(value)
    return shown if isinstance(shown, str) else repr(shown)
