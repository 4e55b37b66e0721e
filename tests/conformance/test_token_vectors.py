"""Published vectors, and PyJWT as a second reader and writer of our tokens."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from authz_sidecar.strictjson import parse_object
from authz_sidecar.token.keys import KeyRing, KeyState, PublishedKey, SigningKey
from authz_sidecar.verifier import (
    JwkSet,
    Presenter,
    Reason,
    TokenRejected,
    VerificationKey,
    arguments_sha256,
    base64url,
    thumbprint,
    x5t_s256,
)
from authz_sidecar.verifier.jws import P256_ORDER, check_signature
from tests.support.tokens import AUDIENCE, ISSUER, KEY, Issuer, honest_claims, parts, verifier, verify


def point(x: str, y: str) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicNumbers(number(x), number(y), ec.SECP256R1()).public_key()


def number(text: str) -> int:
    return int.from_bytes(base64url.decode(text), "big")


def test_rfc_9449_section_6_1_key_thumbprint() -> None:
    key = point("l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs", "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA")
    assert thumbprint(key) == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"


# RFC 8705, appendix A, figures 5 and 6.
RFC_8705_CERTIFICATE = """-----BEGIN CERTIFICATE-----
MIIBBjCBrAIBAjAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDDARtdGxzMB4XDTE4MTAx
ODEyMzcwOVoXDTIyMDUwMjEyMzcwOVowDzENMAsGA1UEAwwEbXRsczBZMBMGByqG
SM49AgEGCCqGSM49AwEHA0IABNcnyxwqV6hY8QnhxxzFQ03C7HKW9OylMbnQZjjJ
/Au08/coZwxS7LfA4vOLS9WuneIXhbGGWvsDSb0tH6IxLm8wCgYIKoZIzj0EAwID
SQAwRgIhAP0RC1E+vwJD/D1AGHGzuri+hlV/PpQEKTWUVeORWz83AiEA5x2eXZOV
bUlJSGQgjwD5vaUaKlLR50Q2DmFfQj1L+SY=
-----END CERTIFICATE-----
"""


def test_rfc_8705_appendix_a_certificate_thumbprint() -> None:
    der = x509.load_pem_x509_certificate(RFC_8705_CERTIFICATE.encode()).public_bytes(Encoding.DER)
    assert x5t_s256(der) == "A4DtL2JmUMhAsvJj5tKyn64SqzmuXbMrJa0n761y5v0"
    with pytest.raises(ValueError, match="exactly one URI"):
        Presenter.from_certificate(der)


def test_rfc_7515_appendix_a_3_signature() -> None:
    key = VerificationKey.of(
        point("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0")
    )
    message = (
        b"eyJhbGciOiJFUzI1NiJ9"
        b".eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
    )
    signature = base64url.decode(
        "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    )
    # The RFC's signature is in the high form, which RFC 7518 admits and this profile does not.
    with pytest.raises(TokenRejected):
        check_signature(message, signature, key)
    low = P256_ORDER - int.from_bytes(signature[32:], "big")
    check_signature(message, signature[:32] + low.to_bytes(32, "big"), key)


@pytest.mark.parametrize(
    ("raw", "canonical"),
    [
        (  # section 3.2.2
            rb'{"numbers":[333333333.33333329,1E30,4.50,2e-3,0.000000000000000000000000001],'
            rb'"string":"\u20ac$\u000F\u000aA'
            rb"'\u0042\u0022\u005c\\\"\/"
            rb'","literals":[null,true,false]}',
            '{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],'
            '"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
        ),
        (  # section 3.2.3
            rb'{"\u20ac":"Euro Sign","\r":"Carriage Return","\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One",'
            rb'"\ud83d\ude00":"Emoji: Grinning Face","\u0080":"Control","\u00f6":"Latin Small Letter O With Diaeresis"}',
            '{"\\r":"Carriage Return","1":"One","\x80":"Control","ö":"Latin Small Letter O With Diaeresis",'
            '"€":"Euro Sign","😀":"Emoji: Grinning Face","\ufb33":"Hebrew Letter Dalet With Dagesh"}',
        ),
    ],
)
def test_rfc_8785_argument_digests(raw: bytes, canonical: str) -> None:
    arguments = parse_object(raw, max_bytes=1000, max_depth=4)
    assert arguments_sha256(arguments) == hashlib.sha256(canonical.encode()).digest()


# PyJWT


def decode(token: str, key: Any = KEY.public.public_key) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(
        token,
        key,
        algorithms=["ES256"],
        audience=AUDIENCE,
        issuer=ISSUER,
        options={"verify_exp": False, "verify_nbf": False, "verify_iat": False, "strict_aud": True},
    )
    return claims


def test_pyjwt_reads_our_token_as_we_do() -> None:
    for initiator in ("alice", "Zoë 😀", 'a"b\\c\n'):
        token = Issuer().token(initiator={"kind": "human", "id": initiator, "verified": True})
        assert decode(token) == parts(token)[1] == dict(verify(token).claims)
        assert jwt.get_unverified_header(token) == {"typ": "at+jwt", "alg": "ES256", "kid": KEY.kid}


def test_pyjwt_finds_our_keys_in_our_key_set() -> None:
    ring = KeyRing(KEY, [PublishedKey(SigningKey.generate().public, KeyState.NEXT)])
    keys = jwt.PyJWKSet.from_json(ring.jwks().decode())
    assert [key.algorithm_name for key in keys.keys] == ["ES256", "ES256"]
    assert decode(Issuer().token(), keys[KEY.kid])["aud"] == AUDIENCE


def test_token_of_another_writer_is_accepted_exactly_when_its_signature_is_in_the_low_form() -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    key = VerificationKey.of(private.public_key())
    keys = JwkSet.parse(json.dumps({"keys": [key.to_jwk()]}).encode())
    forms = set()
    for _ in range(64):
        token = jwt.encode(honest_claims(), private, "ES256", headers={"typ": "at+jwt", "kid": key.kid})
        low = int.from_bytes(base64url.decode(token.rpartition(".")[2])[32:], "big") <= P256_ORDER // 2
        forms.add(low)
        try:
            verify(token, verifier(keys=keys))
            assert low
        except TokenRejected as rejected:
            assert (rejected.reason, low) == (Reason.BAD_SIGNATURE, False)
    assert forms == {True, False}
