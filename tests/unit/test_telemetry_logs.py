from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from authz_sidecar.telemetry.logs import LogFormat, LogLevel, configure_logs
from authz_sidecar.telemetry.redact import REDACTED, redacted, redacted_text

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
TOKEN = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2lnbmF0dXJl"
KEY = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIA\n-----END EC PRIVATE KEY-----"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def configured(
    stream: io.StringIO | None = None, *, level: LogLevel = "info", log_format: LogFormat = "auto"
) -> io.StringIO:
    stream = stream if stream is not None else io.StringIO()
    configure_logs(level=level, format=log_format, stream=stream, now=lambda: NOW)
    return stream


def only_line(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


def test_lines_are_json_off_a_terminal() -> None:
    stream = configured()
    structlog.get_logger("x").info("serving", policy="sha256:ab", listeners=["unix:/run/a"])
    assert only_line(stream) == {
        "time": "2026-03-01T12:00:00.000000Z",
        "level": "info",
        "event": "serving",
        "policy": "sha256:ab",
        "listeners": ["unix:/run/a"],
    }


def test_lines_are_for_people_on_a_terminal_unless_json_was_asked_for() -> None:
    stream = configured(Terminal())
    structlog.get_logger().info("serving")
    assert "serving" in stream.getvalue()
    with pytest.raises(json.JSONDecodeError):
        json.loads(stream.getvalue())
    stream = configured(Terminal(), log_format="json")
    structlog.get_logger().info("serving")
    assert only_line(stream)["event"] == "serving"


def test_lines_below_the_level_are_not_written() -> None:
    stream = configured(level="warning")
    structlog.get_logger().info("quiet")
    logging.getLogger("library").info("quiet")
    assert stream.getvalue() == ""


def test_libraries_that_use_logging_get_the_same_lines_and_redaction() -> None:
    stream = configured()
    logging.getLogger("uvicorn.error").warning("got %s", TOKEN)
    assert only_line(stream) == {
        "time": "2026-03-01T12:00:00.000000Z",
        "level": "warning",
        "event": f"got {REDACTED}",
        "logger": "uvicorn.error",
    }


def test_a_second_configuration_replaces_the_first() -> None:
    first = configured()
    log = structlog.get_logger()
    log.info("one")
    second = configured()
    log.info("two")
    logging.getLogger("library").warning("three")
    assert len(first.getvalue().splitlines()) == 1
    assert len(second.getvalue().splitlines()) == 2


def test_a_traceback_shows_code_and_no_values() -> None:
    stream = configured()
    token = TOKEN
    try:
        raise ValueError(f"refused {token}")
    except ValueError:
        structlog.get_logger().error("rpc failed", exc_info=True)
    line = only_line(stream)
    assert "ValueError: refused [redacted]" in line["exception"]
    assert "signature" not in stream.getvalue()
    assert TOKEN not in stream.getvalue()


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_logged_text_can_forge_no_line_and_steer_no_terminal(log_format: LogFormat) -> None:
    stream = configured(log_format=log_format)
    structlog.get_logger().info("hello\n2026 [info] forged", name="a\x1b[2J\r\nb")
    written = stream.getvalue()
    assert len(written.splitlines()) == 1
    assert "\x1b[2J" not in written


@pytest.mark.parametrize(
    "name",
    ["token", "access_token", "Authorization", "jwt_svid", "signing_key", "private-key", "arguments", "tool.arguments",
     "client_secret", "tokens"],
)  # fmt: skip
def test_fields_named_after_secrets_are_redacted_at_any_depth(name: str) -> None:
    assert redacted({name: "hunter2"}) == {name: REDACTED}
    assert redacted({"request": {name: {"a": "hunter2"}}}) == {"request": {name: REDACTED}}
    assert redacted({"requests": [{name: "hunter2"}]}) == {"requests": [{name: REDACTED}]}


@pytest.mark.parametrize(
    "name",
    ["token_sha256", "arguments_sha256", "key_path", "kid", "jti", "svid_expiry", "signing_key_file", "monkey",
     "tokenizer", "policy"],
)  # fmt: skip
def test_fields_about_secrets_stay_readable(name: str) -> None:
    assert redacted({name: "visible"}) == {name: "visible"}


@pytest.mark.parametrize("secret", [TOKEN, KEY, KEY.replace("EC ", ""), KEY.partition("-----END")[0]])
def test_texts_that_look_like_secrets_are_redacted_under_any_name(secret: str) -> None:
    assert redacted_text(f"before {secret}") == f"before {REDACTED}"
    assert redacted({"event": [{"a": secret}], "b": ValueError(secret)}) == {"event": [{"a": REDACTED}], "b": REDACTED}
    assert list(redacted({"m": {secret: 1}})["m"]) == [REDACTED]


def test_objects_never_show_their_fields() -> None:
    @dataclass(frozen=True, slots=True)
    class Holder:
        value: str

    found = redacted({"a": Holder("hunter2"), "b": b"hunter2", "c": Path("/run/x"), "d": 2**70, "e": None, "f": 1.5})
    assert found == {"a": "<Holder>", "b": "[7 bytes]", "c": "/run/x", "d": str(2**70), "e": None, "f": 1.5}


def test_a_value_that_contains_itself_costs_a_bounded_line() -> None:
    endless: dict[str, Any] = {}
    endless["again"] = endless
    stream = configured()
    structlog.get_logger().info("deep", value=endless, long=list(range(100_000)))
    assert len(stream.getvalue()) < 2000
    assert only_line(stream)["event"] == "deep"
