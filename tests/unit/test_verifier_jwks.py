"""Key sets: what is refused whole, what is ignored, and what a file source does when its file changes under it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from authz_sidecar.token.keys import KeyRing, KeyState, PublishedKey, SigningKey
from authz_sidecar.verifier import JwkSet, JwksFile, KeysUnavailable, MalformedJwks, VerificationKey, base64url
from tests.support.tokens import KEY, OTHER_SHA256

OTHER = SigningKey.generate()
JWK = KEY.public.to_jwk()
RSA = {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "r", "n": "AQAB", "e": "AQAB"}


def jwks(*keys: Any) -> bytes:
    return json.dumps({"keys": list(keys)}).encode()


def test_published_ring_is_read_back_as_the_same_keys() -> None:
    ring = KeyRing(KEY, [PublishedKey(OTHER.public, KeyState.RETIRING)])
    parsed = JwkSet.parse(ring.jwks())
    assert set(parsed.keys) == {KEY.kid, OTHER.kid}
    found = parsed.find(OTHER.kid)
    assert found is not None
    assert found.public_key == OTHER.public.public_key
    assert (
        json.loads(ring.jwks())["keys"][0] == JWK == {**JWK, "use": "sig", "alg": "ES256", "kty": "EC", "crv": "P-256"}
    )


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"keys":{}}', "`keys`"),
        (b"{}", "`keys`"),
        (b'{"keys":[],"keys":[]}', "duplicate"),
        (jwks("text"), "not an object"),
        (jwks(*[RSA] * 65), "longer than 64"),
        (jwks({"pad": "x" * 70_000}), "longer than 65536"),
        (jwks(JWK, JWK), "stands twice"),
        (jwks(JWK, {"kty": "oct", "use": "sig", "k": "c2VjcmV0"}), "secret key material"),
        (jwks({**JWK, "d": JWK["x"]}), "secret key material"),
        (jwks({**RSA, "d": "AQAB"}), "secret key material"),
        (jwks({**JWK, "use": "enc"}), "`use`"),
        (jwks({name: JWK[name] for name in JWK if name != "use"}), "`use`"),
        (jwks({**JWK, "alg": "ES384"}), "`alg`"),
        (jwks({name: JWK[name] for name in JWK if name != "alg"}), "`alg`"),
        (jwks({**JWK, "kid": OTHER.kid}), "thumbprint"),
        (jwks({**JWK, "x": OTHER.public.to_jwk()["x"]}), "not a point"),
        (jwks({**JWK, "x": f"{JWK['x']}="}), "`x`"),
        (jwks({**JWK, "x": base64url.encode(bytes(31))}), "`x`"),
        (jwks({**JWK, "y": None}), "`y`"),
        (jwks({**JWK, "x": base64url.encode(b"\xff" * 32)}), "not a point"),
    ],
)
def test_damaged_key_set_is_refused_whole(raw: bytes, message: str) -> None:
    with pytest.raises(MalformedJwks, match=message):
        JwkSet.parse(raw)


def test_keys_of_other_kinds_are_ignored() -> None:
    okp = {"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": "o", "x": OTHER_SHA256}
    p384 = {"kty": "EC", "crv": "P-384", "use": "sig", "alg": "ES384", "kid": "p", "x": "A", "y": "A"}
    assert set(JwkSet.parse(jwks(RSA, JWK, okp, p384)).keys) == {KEY.kid}


def test_key_on_another_curve_is_no_verification_key() -> None:
    with pytest.raises(ValueError, match="P-256"):
        VerificationKey.of(ec.generate_private_key(ec.SECP384R1()).public_key())


class Clock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def replace(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".new")
    temporary.write_bytes(content)
    os.replace(temporary, path)  # noqa: PTH105 (the call that real writers make)


def test_file_may_appear_later_and_change_at_any_time(tmp_path: Path, clock: Clock) -> None:
    path = tmp_path / "jwks.json"
    source = JwksFile(path, monotonic=clock)
    with pytest.raises(KeysUnavailable, match="No such file"):
        source.find(KEY.kid)
    replace(path, jwks(JWK))
    assert source.find(KEY.kid) is not None
    replace(path, jwks(OTHER.public.to_jwk()))
    assert source.find(KEY.kid) is None
    assert source.find(OTHER.kid) is not None
    replace(path, jwks())
    assert source.find(OTHER.kid) is None


def test_symbolic_link_that_is_switched_is_noticed(tmp_path: Path, clock: Clock) -> None:
    for name, key in (("a", KEY), ("b", OTHER)):
        (tmp_path / name).write_bytes(jwks(key.public.to_jwk()))
    path = tmp_path / "jwks.json"
    path.symlink_to("a")
    source = JwksFile(path, monotonic=clock)
    assert source.find(KEY.kid) is not None
    path.unlink()
    path.symlink_to("b")
    assert source.find(KEY.kid) is None


@pytest.mark.parametrize("damage", ["removed", "damaged", "unreadable"])
def test_last_good_keys_bridge_a_damaged_file_for_five_minutes(tmp_path: Path, clock: Clock, damage: str) -> None:
    path = tmp_path / "jwks.json"
    replace(path, jwks(JWK))
    source = JwksFile(path, monotonic=clock)
    assert source.find(KEY.kid) is not None
    clock.seconds += 10_000  # age counts from the last time the file was seen good, not from when it was read
    assert source.find(KEY.kid) is not None
    if damage == "removed":
        path.unlink()
    elif damage == "damaged":
        replace(path, b"{")
    else:
        path.unlink()
        path.mkdir()
    clock.seconds += 300
    assert source.find(KEY.kid) is not None
    assert source.last_error is not None
    clock.seconds += 1
    with pytest.raises(KeysUnavailable, match=str(path)):
        source.find(KEY.kid)
    if damage == "unreadable":
        path.rmdir()
    replace(path, jwks(JWK))
    assert source.find(KEY.kid) is not None
    assert source.last_error is None
