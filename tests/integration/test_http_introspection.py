"""Introspection over HTTP: RFC 7662, with a JWT-SVID as the caller's credential."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest

from authz_sidecar.v1 import token_pb2
from tests.support.sidecar import READ, Caller, Sidecar, World, running, world

FORM = "application/x-www-form-urlencoded"
INACTIVE = {"active": False}


@pytest.fixture(scope="module")
def made() -> Iterator[World]:
    with world() as value:
        yield value


@pytest.fixture(scope="module")
def sidecar(made: World) -> Iterator[Sidecar]:
    with running(made) as value:
        yield value


@pytest.fixture(scope="module")
def token(made: World, sidecar: Sidecar) -> str:
    with Caller(made) as support:
        return support.authorize(support.start_task()).token.value


def ask(
    sidecar: Sidecar, body: str | bytes, *, bearer: str | None, kind: str = FORM, method: str = "POST"
) -> tuple[int, dict[str, str], dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", int(str(sidecar.serving["http_port"])), timeout=10)
    try:
        headers = {"Content-Type": kind} | ({"Authorization": f"Bearer {bearer}"} if bearer is not None else {})
        connection.request(method, "/introspect", body=body, headers=headers)
        answer = connection.getresponse()
        raw = answer.read()
        told = json.loads(raw) if raw.startswith(b"{") else {}
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, told
    finally:
        connection.close()


def test_a_tool_server_learns_everything_about_an_active_token(made, sidecar, token):
    status, headers, told = ask(
        sidecar, urlencode({"token": token, "token_type_hint": "access_token"}), bearer=made.jwt_svid("/tools/crm")
    )
    assert (status, told["active"], told["token_type"]) == (200, True, "Bearer")
    assert told["client_id"] == "spiffe://example.org/agent/support"
    assert told["cnf"].keys() == {"x5t#S256"}
    assert told["authorization_details"][0]["actions"] == [READ]
    assert headers["cache-control"] == "no-store"
    assert headers["content-type"] == "application/json"


def test_everything_that_is_not_active_looks_the_same(made, sidecar, token):
    with Caller(made) as support:
        answer = support.authorize(support.start_task())
        support.tokens.RevokeToken(token_pb2.RevokeTokenRequest(token=answer.token.value), timeout=20)
    for other in (answer.token.value, token[:-4] + "AAAA", "nonsense", "a.b.c"):
        status, _, told = ask(sidecar, urlencode({"token": other}), bearer=made.jwt_svid("/platform/operator"))
        assert (status, told) == (200, INACTIVE)


def test_who_may_not_ask_is_told_to_authenticate(made, sidecar, token):
    body = urlencode({"token": token})
    credentials = [
        None,
        "",
        "nonsense",
        made.jwt_svid("/agent/support"),
        made.jwt_svid("/tools/crm", audience="https://elsewhere.example"),
        token,
    ]
    for bearer in credentials:
        status, headers, told = ask(sidecar, body, bearer=bearer)
        assert status == 401
        assert headers["www-authenticate"].startswith("Bearer ")
        assert "active" not in told
        assert token not in json.dumps(told)


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ("", FORM, 400),
        ("token=", FORM, 400),
        ("token=a&token=b", FORM, 400),
        ("other=a", FORM, 400),
        ("&".join(["a=1"] * 20), FORM, 400),
        (b"token=\xff", FORM, 400),
        ("token=" + "a" * 20_000, FORM, 413),
        ('{"token": "a"}', "application/json", 415),
    ],
)
def test_a_bad_request_is_told_what_is_wrong(made, sidecar, body, kind, status):
    got, _, told = ask(sidecar, body, bearer=made.jwt_svid("/tools/crm"), kind=kind)
    assert (got, told["error"]) == (status, "invalid_request")


def test_reading_is_no_way_to_ask(made, sidecar):
    assert ask(sidecar, "", bearer=made.jwt_svid("/tools/crm"), method="GET")[0] == 405
