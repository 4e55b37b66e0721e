"""`token inspect` shows what is in a token and says that none of it was verified."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import pytest
from typer.testing import CliRunner

from authz_sidecar.cli.application import app


def part(value: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def jws(claims: dict[str, Any]) -> str:
    return ".".join([part({"alg": "ES256", "typ": "at+jwt"}), part(claims), "c2ln"])


def test_inspect_shows_both_parts_and_says_that_nothing_was_verified() -> None:
    token = jws({"sub": "spiffe://example.org/agent/support", "exp": int(time.time()) - 30})
    result = CliRunner().invoke(app, ["token", "inspect", token])
    assert result.exit_code == 0
    assert result.stdout.startswith("NOT VERIFIED")
    assert "spiffe://example.org/agent/support" in result.stdout
    assert "expired 3" in result.stdout


def test_inspect_reads_standard_input_and_writes_json() -> None:
    result = CliRunner().invoke(app, ["token", "inspect", "-", "-o", "json"], input=jws({"jti": "7"}) + "\n")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "verified": False,
        "header": {"alg": "ES256", "typ": "at+jwt"},
        "claims": {"jti": "7"},
    }


def test_inspect_does_not_let_a_claim_write_to_the_terminal() -> None:
    result = CliRunner().invoke(app, ["token", "inspect", jws({"sub": "\x1b[2J", "\x1b[1mname": 1})])
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("only.two", "expected 3 parts between dots, got 2"),
        ("a.b.c.d", "got 4"),
        (part({"alg": "x"}) + "." + part([1]) + ".c2ln", "claims: not a JSON object"),
        ("e30=.e30.c2ln", "header: not base64url in its canonical form"),
        ("e30.e31.c2ln", "claims: not base64url in its canonical form"),
        ("e30.e30.c2+/", "signature: not base64url"),
        ("e30." + base64.urlsafe_b64encode(b'{"a":1,"a":2}').decode().rstrip("=") + ".c2ln", "duplicate member"),
        ("e" * 20000 + ".e30.c2ln", "longer than"),
    ],
)
def test_what_is_not_a_token_is_refused_without_repeating_it(token: str, said: str) -> None:
    result = CliRunner().invoke(app, ["token", "inspect", token])
    assert result.exit_code == 1
    assert said in result.stderr
    assert token not in result.output
    assert result.stdout == ""


def test_no_token_on_standard_input_is_a_usage_error() -> None:
    result = CliRunner().invoke(app, ["token", "inspect", "-"], input="")
    assert result.exit_code == 2
    assert "standard input" in result.stderr
