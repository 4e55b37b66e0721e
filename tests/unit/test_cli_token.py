"""`token inspect` shows what is in a token and verifies nothing; `token verify` compares it with one call."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from authz_sidecar.cli.application import app
from authz_sidecar.token.keys import KeyRing
from authz_sidecar.verifier import arguments_sha256
from tests.support import tokens


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


ARGUMENTS = {"contact_id": "c-1042"}


@pytest.fixture
def call(tmp_path: Path) -> list[str]:
    """The command line that verifies a token against the call it was minted for; the token goes to standard input."""
    (tmp_path / "jwks.json").write_bytes(KeyRing(tokens.KEY).jwks())
    (tmp_path / "arguments.json").write_text(json.dumps(ARGUMENTS))
    return [
        *("token", "verify", "-", "--jwks", str(tmp_path / "jwks.json"), "--issuer", tokens.ISSUER),
        *("--audience", tokens.AUDIENCE, "--tool", tokens.TOOL, "--jkt", tokens.X5T),
        *("--arguments", str(tmp_path / "arguments.json")),
    ]


def minted(**changes: Any) -> str:
    issuer = tokens.Issuer()
    record = issuer.record(now=datetime.now(UTC), cnf={"jkt": tokens.X5T})
    record["tool"]["arguments_sha256"] = arguments_sha256(ARGUMENTS).hex()
    return issuer.minter.mint({**record, **changes}).value


def test_a_token_for_this_call_is_verified(call: list[str]) -> None:
    result = CliRunner().invoke(app, call, input=minted())
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("verified for this call")
    machine = CliRunner().invoke(app, [*call, "-o", "json", "--resource", tokens.RESOURCE], input=minted())
    document = json.loads(machine.stdout)
    assert document["verified"] is True
    assert document["claims"]["txn"] == "task-7"


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("--tool", "crm/delete_contact", "wrong_tool"),
        ("--audience", "https://mail.example.org", "wrong_audience"),
        ("--issuer", "https://evil.example", "wrong_issuer"),
        ("--jkt", tokens.OTHER_SHA256, "wrong_presenter"),
        ("--resource", "crm:contact/other", "wrong_resource"),
    ],
)
def test_a_token_for_another_call_is_a_failed_check(call: list[str], option: str, value: str, reason: str) -> None:
    token = minted()
    result = CliRunner().invoke(app, [*call, option, value], input=token)
    assert result.exit_code == 1
    assert f"({reason})" in result.stderr
    assert result.stderr.count("\n") == 1
    machine = CliRunner().invoke(app, [*call, option, value, "-o", "json"], input=token)
    assert machine.exit_code == 1
    assert json.loads(machine.stdout)["reason"] == reason


def test_other_arguments_are_rejected(call: list[str], tmp_path: Path) -> None:
    (tmp_path / "arguments.json").write_text('{"contact_id": "c-1"}')
    assert "(wrong_arguments)" in CliRunner().invoke(app, call, input=minted()).stderr


def test_the_presenter_may_be_given_by_certificate(call: list[str], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["init", str(tmp_path / "dev")]).exit_code == 0
    position = call.index("--jkt")
    with_certificate = [
        *call[:position],
        "--presenter",
        str(tmp_path / "dev/svids/support/svid.pem"),
        *call[position + 2 :],
    ]
    result = CliRunner().invoke(app, with_certificate, input=minted())
    assert result.exit_code == 1
    assert "(wrong_presenter)" in result.stderr


@pytest.mark.parametrize(
    ("change", "said", "code"),
    [
        ({"--jkt": None}, "either `--presenter` or `--jkt`", 2),
        ({"--jkt": "abc"}, "`--jkt`", 2),
        ({"--jwks": "http://example.org/jwks"}, "`--jwks`", 2),
        ({"--jwks": "/nowhere/jwks.json"}, "/nowhere/jwks.json: no such file", 3),
        ({"--arguments": "-"}, "not both", 2),
        ({"--arguments": "/nowhere"}, "/nowhere: no such file", 3),
    ],
)
def test_what_cannot_be_compared_is_no_verdict(
    call: list[str], change: dict[str, str | None], said: str, code: int
) -> None:
    for option, value in change.items():
        position = call.index(option)
        call[position : position + 2] = [] if value is None else [option, value]
    result = CliRunner().invoke(app, call, input=minted())
    assert result.exit_code == code
    assert said in result.stderr
