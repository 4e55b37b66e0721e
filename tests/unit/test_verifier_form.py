"""What is not one of our tokens at all: form, header, key and signature.

Tokens here are rightly signed by the issuer's key unless the case is about the signature, so that nothing but the rule
under test can refuse them.
"""

from __future__ import annotations

import hmac
import json
from base64 import urlsafe_b64decode
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from authz_sidecar.token.keys import SigningKey
from authz_sidecar.verifier import JwkSet, KeysUnavailable, Reason, base64url
from authz_sidecar.verifier.jws import P256_ORDER
from tests.support.tokens import (
    AGENT,
    KEY,
    OTHER_SHA256,
    X5T,
    Issuer,
    honest_claims,
    refuse,
    sign,
    sign_raw,
    verifier,
    verify,
)

TOKEN = Issuer().token()
CLAIMS = honest_claims()
HEADER = {"typ": "at+jwt", "alg": "ES256", "kid": KEY.kid}
OTHER_KEY = SigningKey.generate()


def with_signature(change: Callable[[int, int], tuple[int, int]]) -> str:
    signing_input, _, signature = TOKEN.rpartition(".")
    raw = base64url.decode(signature)
    r, s = change(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    return f"{signing_input}.{base64url.encode(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def test_token_for_exactly_this_call_is_accepted() -> None:
    verified = verify(TOKEN)
    assert (verified.client_id, verified.task_id, verified.decision_id) == (AGENT, "task-7", "dec-01")
    assert dict(verified.claims) == CLAIMS


# Step 1: form


@pytest.mark.parametrize(
    "token",
    [
        None,
        b"bytes",
        "",
        "a.b",
        TOKEN + "\n",
        " " + TOKEN,
        "Bearer " + TOKEN,
        TOKEN + ".",
        TOKEN + "=",
        TOKEN[:-1],
        TOKEN.replace(".", "..", 1),
        TOKEN.replace("e", "é", 1),
        "e" * 9000,
        sign({**CLAIMS, "extra": "x" * 8192}),
    ],
    ids=lambda token: repr(token)[:16],
)
def test_anything_but_one_canonical_compact_jws_is_malformed(token: Any) -> None:
    refuse(Reason.MALFORMED, token)


def test_padded_segments_are_malformed() -> None:
    header, payload, signature = TOKEN.split(".")
    padded = [segment + "=" * (-len(segment) % 4) for segment in (header, payload, signature)]
    for token in (f"{header}.{payload}.{padded[2]}", ".".join(padded)):
        assert "=" in token
        refuse(Reason.MALFORMED, token)


def test_unused_bits_make_no_second_spelling() -> None:
    # 64 bytes leave 4 unused bits in the last character: A, Q, g and w are the only honest endings.
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(TOKEN[-1])
    for sibling in (TOKEN[:-1] + alphabet[position] for position in range(last + 1, last + 16)):
        lenient = [urlsafe_b64decode(text.rpartition(".")[2] + "==") for text in (sibling, TOKEN)]
        assert lenient[0] == lenient[1]
        refuse(Reason.MALFORMED, sibling)


# Step 2: header


@pytest.mark.parametrize("typ", [None, "JWT", "jwt", "AT+JWT", "at+jwt ", "dpop+jwt", "logout+jwt", ["at+jwt"], 1])
def test_other_kind_of_token_is_refused_by_type(typ: Any) -> None:
    refuse(Reason.WRONG_TYPE, sign(CLAIMS, header={**HEADER, "typ": typ}))


def test_missing_type_is_refused() -> None:
    refuse(Reason.WRONG_TYPE, sign(CLAIMS, header={"alg": "ES256", "kid": KEY.kid}))


def test_long_form_of_the_type_is_accepted() -> None:
    verify(sign(CLAIMS, header={**HEADER, "typ": "application/at+jwt"}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crit", ["exp"]),
        ("jku", "https://evil.example/jwks"),
        ("jwk", KEY.public.to_jwk()),
        ("x5u", "https://evil.example/x5"),
        ("x5c", ["MIIB"]),
        ("x5t#S256", X5T),
        ("zip", "DEF"),
        ("b64", False),
        ("cty", "JWT"),
        ("nonce", "n"),
    ],
)
def test_header_that_brings_or_points_to_anything_is_refused(name: str, value: Any) -> None:
    refuse(Reason.FORBIDDEN_HEADER, sign(CLAIMS, header={**HEADER, name: value}))


@pytest.mark.parametrize(
    "alg", [None, "none", "None", "HS256", "RS256", "PS256", "ES384", "ES256K", "EdDSA", "es256", 1]
)
def test_swapped_algorithm_is_refused(alg: Any) -> None:
    refuse(Reason.WRONG_ALGORITHM, sign(CLAIMS, header={**HEADER, "alg": alg}))


def test_unsigned_token_is_refused() -> None:
    header = base64url.encode(json.dumps({**HEADER, "alg": "none"}).encode())
    payload = base64url.encode(json.dumps(CLAIMS).encode())
    refuse(Reason.MALFORMED, f"{header}.{payload}.")


def test_public_key_is_no_hmac_secret() -> None:
    secret = KEY.public.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for alg in ("HS256", "ES256"):
        header = base64url.encode(json.dumps({**HEADER, "alg": alg}).encode())
        signing_input = f"{header}.{base64url.encode(json.dumps(CLAIMS).encode())}"
        digest = hmac.digest(secret, signing_input.encode(), "sha256")
        refuse(Reason.MALFORMED, f"{signing_input}.{base64url.encode(digest)}")
        refuse(
            Reason.WRONG_ALGORITHM if alg == "HS256" else Reason.BAD_SIGNATURE,
            f"{signing_input}.{base64url.encode(digest + digest)}",
        )


@pytest.mark.parametrize(
    "header",
    [
        b'{"typ":"at+jwt","alg":"none","alg":"ES256","kid":"%s"}' % KEY.kid.encode(),
        b'{"typ":"at+jwt","alg":"ES256","kid":"%s","\\u006bid":"%s"}' % (OTHER_SHA256.encode(), KEY.kid.encode()),
        b'["at+jwt"]',
        b"{",
        b'{"typ":"at+jwt","alg":"ES256","kid":"\xff"}',
    ],
)
def test_header_that_two_readers_would_read_differently_is_malformed(header: bytes) -> None:
    refuse(Reason.MALFORMED, sign_raw(json.dumps(CLAIMS).encode(), header=header))


# Step 3: key


@pytest.mark.parametrize("kid", [None, "", 1, OTHER_KEY.kid, KEY.kid[:-1], "../../etc/passwd", "' OR 1=1 --" + KEY.kid])
def test_key_that_the_issuer_does_not_publish_is_unknown(kid: Any) -> None:
    refuse(Reason.UNKNOWN_KEY, sign(CLAIMS, header={**HEADER, "kid": kid}))


def test_issuer_without_keys_accepts_nothing() -> None:
    refuse(Reason.UNKNOWN_KEY, TOKEN, subject=verifier(keys=JwkSet.of([])))


def test_keys_that_cannot_be_had_refuse() -> None:
    class Unreachable:
        def find(self, kid: str) -> None:
            raise KeysUnavailable("no route to the issuer")

    refuse(Reason.KEYS_UNAVAILABLE, TOKEN, subject=verifier(keys=Unreachable()))


# Step 4: signature


def test_signature_by_another_published_key_is_refused() -> None:
    both = verifier(keys=JwkSet.of([KEY.public, OTHER_KEY.public]))
    refuse(Reason.BAD_SIGNATURE, sign(CLAIMS, header=HEADER, key=OTHER_KEY), subject=both)
    verify(sign(CLAIMS, key=OTHER_KEY), both)


def test_ecdsa_twin_of_a_signature_is_refused() -> None:
    twin = with_signature(lambda r, s: (r, P256_ORDER - s))
    signing_input, _, signature = twin.rpartition(".")
    raw = base64url.decode(signature)
    der = encode_dss_signature(int.from_bytes(raw[:32], "big"), int.from_bytes(raw[32:], "big"))
    KEY.public.public_key.verify(der, signing_input.encode(), ec.ECDSA(hashes.SHA256()))  # ECDSA itself accepts it
    refuse(Reason.BAD_SIGNATURE, twin)


@pytest.mark.parametrize(
    "change",
    [
        lambda r, s: (0, 0),
        lambda r, s: (0, s),
        lambda r, s: (r, 0),
        lambda r, s: (P256_ORDER, s),
        lambda r, s: (s, r % (P256_ORDER // 2)),
        lambda r, s: (2**256 - 1, 2**256 - 1),
        lambda r, s: (1, 1),
    ],
)
def test_degenerate_signature_is_refused(change: Callable[[int, int], tuple[int, int]]) -> None:
    refuse(Reason.BAD_SIGNATURE, with_signature(change))
