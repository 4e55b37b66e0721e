"""Builders around tokens: a decision record, an issuer with a key, and tokens that no honest issuer would sign."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import pytest

from authz_sidecar.clock import format_time
from authz_sidecar.token.keys import KeyRing, SigningKey
from authz_sidecar.token.mint import Minter
from authz_sidecar.verifier import (
    JwkSet,
    Presenter,
    Reason,
    TokenRejected,
    TokenVerifier,
    VerifiedToken,
    arguments_sha256,
    base64url,
)

NOW = datetime(2026, 3, 1, 12, 0, 0, 250_000, tzinfo=UTC)
ISSUER = "https://authz.example.org"
AUDIENCE = "https://crm.example.org"
AGENT = "spiffe://example.org/agent/planner"
TOOL = "crm/read_contact"
RESOURCE = "crm:contact/c-1042"
ARGUMENTS: dict[str, Any] = {"contact_id": "c-1042", "fields": ["name", "email"], "limit": 10}
X5T = "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"
OTHER_SHA256 = "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
KEY = SigningKey.generate()


def permit_record(token: Mapping[str, Any], now: datetime = NOW) -> dict[str, Any]:
    """A permit as the engine records it."""
    return {
        "v": 1,
        "type": "decision",
        "id": "dec-01",
        "time": format_time(now),
        "actor": {"spiffe_id": AGENT, "method": "x509-svid", "credential_sha256": "ab" * 32},
        "initiator": {"kind": "human", "id": "alice", "verified": False},
        "purpose": "renewal",
        "task": {
            "id": "task-7",
            "state": "active",
            "epoch": 2,
            "expires_at": format_time(now + timedelta(hours=1)),
            "depth": 0,
        },
        "request": {"id": "req-1", "sha256": "cd" * 32},
        "tool": {
            "server": "crm",
            "name": "read_contact",
            "permission": "read",
            "risks": [],
            "call_id": None,
            "arguments_sha256": arguments_sha256(ARGUMENTS).hex(),
        },
        "action": TOOL,
        "audience": AUDIENCE,
        "resource": {"id": RESOURCE, "classification": "internal", "level": 1, "owner": "sales", "source": "arguments"},
        "policy": {"sha256": "sha256:" + "ef" * 32, "engine": "cedarpy 4.12.2"},
        "determining": [],
        "errors": [],
        "outcome": "permit",
        "reason_code": "permitted",
        "token": dict(token),
        "revocation_epoch": 5,
    }


def jti_source() -> Any:
    """Distinct, predictable identifiers."""
    numbers = count(1)
    return lambda: f"jti-{next(numbers):022d}"


@dataclass
class Issuer:
    """A minter with a key, and a record to mint from."""

    key: SigningKey = field(default_factory=lambda: KEY)
    minter: Minter = field(init=False)

    def __post_init__(self) -> None:
        self.minter = Minter(KeyRing(self.key), ISSUER, new_jti=jti_source())

    def record(self, *, now: datetime = NOW, cnf: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        planned = self.minter.plan(
            now=now, not_after=now + timedelta(hours=1), audience=AUDIENCE, cnf=cnf or {"x5t#S256": X5T}
        )
        assert planned is not None
        return permit_record(planned, now) | changes

    def token(self, **changes: Any) -> str:
        return self.minter.mint(self.record(**changes)).value


def sign(claims: Any, *, header: Mapping[str, Any] | None = None, key: SigningKey = KEY) -> str:
    """A token with any claims and header, rightly signed by the issuer's key."""
    members = {"typ": "at+jwt", "alg": "ES256", "kid": key.kid} if header is None else header
    return sign_raw(json.dumps(claims).encode(), header=json.dumps(members).encode(), key=key)


def sign_raw(payload: bytes, *, header: bytes | None = None, key: SigningKey = KEY) -> str:
    """Like `sign`, for JSON texts that no serialiser would write."""
    if header is None:
        header = json.dumps({"typ": "at+jwt", "alg": "ES256", "kid": key.kid}).encode()
    signing_input = f"{base64url.encode(header)}.{base64url.encode(payload)}"
    return f"{signing_input}.{base64url.encode(key.sign(signing_input.encode()))}"


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, read without any checks."""
    header, payload, _ = token.split(".")
    return json.loads(base64url.decode(header)), json.loads(base64url.decode(payload))


def honest_claims() -> dict[str, Any]:
    """Claims of a token that the default verifier accepts; change a copy to break one rule."""
    return copy.deepcopy(parts(Issuer().token())[1])


def verifier(**changes: Any) -> TokenVerifier:
    options: dict[str, Any] = {
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "keys": JwkSet.of([KEY.public]),
        "now": lambda: NOW,
        **changes,
    }
    return TokenVerifier(**options)


def verify(token: Any, subject: TokenVerifier | None = None, **changes: Any) -> VerifiedToken:
    """Verify for the call that `permit_record` permits; `changes` are another call or presenter."""
    call: dict[str, Any] = {
        "presenter": Presenter(x5t_s256=X5T, spiffe_id=AGENT),
        "tool": TOOL,
        "arguments": ARGUMENTS,
        "resource": RESOURCE,
        **changes,
    }
    return (subject or verifier()).verify(token, **call)


def refuse(reason: Reason, token: Any, **call: Any) -> TokenRejected:
    """Verify, and insist on this one reason."""
    with pytest.raises(TokenRejected) as caught:
        verify(token, **call)
    assert caught.value.reason is reason, str(caught.value)
    return caught.value
