"""The operational log: for whoever runs the sidecar. It is never the record; what happened is in the ledger.

One line per event on the given stream, from structlog and from the standard library's `logging` alike, JSON unless a
person watches. Every line passes the redaction of `redact`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any, Literal, TextIO

import orjson
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from authz_sidecar.clock import Now, format_time, system_now
from authz_sidecar.telemetry.redact import redacted

LogFormat = Literal["auto", "json", "console"]
LogLevel = Literal["debug", "info", "warning", "error"]

# A line break or an escape sequence in a logged text could forge a line or steer a terminal.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_BREAKS = re.compile(r"[\n\t]")


def configure_logs(*, level: LogLevel, format: LogFormat, stream: TextIO, now: Now = system_now) -> None:
    """Send all logging of this process to `stream`.

    Args:
        level: least severity that is written.
        format: `auto` writes for people when `stream` is a terminal, JSON otherwise.
        stream: where lines go; normally standard error.
        now: the clock of the lines' `time`.
    """
    threshold = logging.getLevelNamesMapping()[level.upper()]
    console = format == "console" or (format == "auto" and stream.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _time_of(now),
        structlog.processors.format_exc_info,
        _redact,
    ]
    render: Processor = _console_renderer(colors=stream.isatty()) if console else _render_json
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        # Not cached, so that a second configuration reaches loggers that were used under the first.
        cache_logger_on_first_use=False,
    )
    _capture_standard_logging(threshold, shared, render, stream)


def _capture_standard_logging(threshold: int, shared: list[Processor], render: Processor, stream: TextIO) -> None:
    """Libraries that use `logging` get the same lines through one handler on the root logger."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, structlog.stdlib.ProcessorFormatter):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(threshold)


def _time_of(now: Now) -> Processor:
    def add_time(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        event["time"] = format_time(now())
        return event

    return add_time


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    # ProcessorFormatter keeps the original record beside the fields, for its own use.
    kept = {name: event.pop(name) for name in ("_record", "_from_structlog") if name in event}
    return {**redacted(event), **kept}


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    first = {name: event.pop(name) for name in ("time", "level", "event") if name in event}
    return orjson.dumps(first | dict(event)).decode()


def _console_renderer(*, colors: bool) -> Processor:
    render: Callable[[Any, str, EventDict], Any] = structlog.dev.ConsoleRenderer(
        colors=colors, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
    )

    def on_one_line(logger: WrappedLogger, method: str, event: EventDict) -> str:
        trace = event.pop("exception", None)
        safe = {name: _visible(value) if isinstance(value, str) else value for name, value in event.items()}
        if isinstance(trace, str):
            safe["exception"] = _CONTROL.sub(_escape, trace)
        return str(render(logger, method, safe))

    return on_one_line


def _visible(text: str) -> str:
    return _BREAKS.sub(_escape, _CONTROL.sub(_escape, text))


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode("ascii")
