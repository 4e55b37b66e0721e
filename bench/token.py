"""What a token costs: minting and verifying, in microseconds. Run: python -m bench.token

Figures are the best of several rounds on one thread; compare them with each other, not with other machines. The two
PyJWT lines do less work: no claims built from a record, no strict parsing, no comparison with a call.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from authz_sidecar.clock import format_time
from authz_sidecar.token.claims import claims_of
from authz_sidecar.token.keys import KeyRing, SigningKey
from authz_sidecar.token.mint import Minter
from authz_sidecar.verifier import Presenter, TokenVerifier, arguments_sha256
from authz_sidecar.verifier.jws import check_signature, parse_unverified

_NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
_ISSUER, _AUDIENCE = "https://authz.example.org", "https://crm.example.org"
_AGENT, _THUMBPRINT = "spiffe://example.org/agent/planner", "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"
_ARGUMENTS: dict[str, Any] = {"contact_id": "c-1042", "fields": ["name", "email"], "limit": 10}


def run(*, calls: int = 200, rounds: int = 15) -> dict[str, float]:
    """Microseconds per call, the best of `rounds` rounds."""
    return {
        name: min(timeit.repeat(work, number=calls, repeat=rounds)) / calls * 1e6 for name, work in _lines().items()
    }


def _lines() -> dict[str, Callable[[], object]]:
    key = SigningKey.generate()
    minter = Minter(KeyRing(key), _ISSUER, new_jti=lambda: "0123456789abcdefghijkl")
    record = _record(minter)
    token = minter.mint(record).value
    claims, jws = claims_of(record, issuer=_ISSUER), parse_unverified(token)
    verifier = TokenVerifier(
        issuer=_ISSUER, audience=_AUDIENCE, keys=KeyRing(key).public_keys, now=lambda: _NOW + timedelta(seconds=1)
    )
    presenter = Presenter(x5t_s256=_THUMBPRINT, spiffe_id=_AGENT)
    private = ec.generate_private_key(ec.SECP256R1())
    reference = jwt.encode(claims, private, "ES256")

    def verify() -> object:
        return verifier.verify(
            token, presenter=presenter, tool="crm/read_contact", arguments=_ARGUMENTS, resource="crm:contact/c-1042"
        )

    return {
        "plan": lambda: _plan(minter),
        "mint: claims, signature, read back": lambda: minter.mint(record),
        "  of which the claims": lambda: claims_of(record, issuer=_ISSUER),
        "  of which the signature": lambda: key.sign(jws.signing_input),
        "  left out: verifying the signature": lambda: check_signature(jws.signing_input, jws.signature, key.public),
        "verify: all steps, arguments included": verify,
        "  of which signature": lambda: check_signature(jws.signing_input, jws.signature, key.public),
        "  of which the arguments' digest": lambda: arguments_sha256(_ARGUMENTS),
        "PyJWT encode, for comparison": lambda: jwt.encode(claims, private, "ES256"),
        "PyJWT decode, for comparison": lambda: jwt.decode(
            reference, private.public_key(), ["ES256"], audience=_AUDIENCE, options={"verify_exp": False}
        ),
    }


def _plan(minter: Minter) -> dict[str, Any]:
    planned = minter.plan(
        now=_NOW, not_after=_NOW + timedelta(hours=1), audience=_AUDIENCE, cnf={"x5t#S256": _THUMBPRINT}
    )
    if planned is None:
        raise RuntimeError("no life left")
    return planned


def _record(minter: Minter) -> dict[str, Any]:
    return {
        "type": "decision",
        "id": "01K0000000000000000000DEC1",
        "outcome": "permit",
        "actor": {"spiffe_id": _AGENT},
        "initiator": {"kind": "human", "id": "alice", "verified": False},
        "task": {"id": "01K0000000000000000000TASK", "epoch": 1, "expires_at": format_time(_NOW + timedelta(hours=1))},
        "tool": {"server": "crm", "name": "read_contact", "arguments_sha256": arguments_sha256(_ARGUMENTS).hex()},
        "resource": {"id": "crm:contact/c-1042"},
        "policy": {"sha256": "sha256:" + "ef" * 32},
        "token": _plan(minter),
    }


if __name__ == "__main__":
    for name, value in run().items():
        print(f"{name:40}{value:8.1f}")
