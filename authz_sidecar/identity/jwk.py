"""Public keys as JSON Web Keys: RFC 7517, RFC 7518 section 6, thumbprints by RFC 7638.

Only the keys that a JWT-SVID may be signed with: EC on P-256, P-384, P-521, and RSA (JWT-SVID section 2.1).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from authz_sidecar.strictjson import Json
from authz_sidecar.verifier import base64url

PublicKey: TypeAlias = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

_MIN_RSA_BITS = 2048  # RFC 7518 section 3.3
_MAX_RSA_BITS = 8192  # bounds the time one signature check can take
_RSA_ALGORITHMS = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
_PRIVATE_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")


@dataclass(frozen=True, slots=True)
class _Curve:
    name: str
    curve: ec.EllipticCurve
    coordinate_bytes: int
    algorithm: str


_CURVES = (
    _Curve("P-256", ec.SECP256R1(), 32, "ES256"),
    _Curve("P-384", ec.SECP384R1(), 48, "ES384"),
    _Curve("P-521", ec.SECP521R1(), 66, "ES512"),
)
JWT_SVID_ALGORITHMS = _RSA_ALGORITHMS | {curve.algorithm for curve in _CURVES}


class MalformedJwk(ValueError):
    """The members do not describe a public key that may be used here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtKey:
    """A JWT authority's key.

    Attributes:
        kid: the key id, unique within its bundle.
        public_key: the key.
        algorithms: every `alg` a signature by this key may carry; one for an EC key or a key that names its `alg`.
    """

    kid: str
    public_key: PublicKey
    algorithms: frozenset[str]


def parse_public_key(members: Mapping[str, Json]) -> PublicKey | None:
    """The key of a JWK, or None for a `kty` or `crv` that is not supported and that the bundle rules say to ignore.

    Raises MalformedJwk: a symmetric or private key, members missing or not canonical, a point off the curve, an RSA
    modulus below 2048 or above 8192 bits.
    """
    kty = _text(members, "kty")
    if kty == "oct" or any(name in members for name in _PRIVATE_MEMBERS):
        raise MalformedJwk("holds secret key material; publish public keys only, and replace this one")
    if kty == "RSA":
        return _rsa_key(members)
    if kty == "EC":
        return _ec_key(members)
    return None


def algorithms_of(key: PublicKey) -> frozenset[str]:
    """The JWT-SVID algorithms that fit the key (RFC 7518 sections 3.3 to 3.5)."""
    if isinstance(key, rsa.RSAPublicKey):
        return _RSA_ALGORITHMS
    return frozenset({_curve_of(key).algorithm})


def public_members(key: PublicKey) -> dict[str, str]:
    """The required members of the key's JWK (RFC 7518 sections 6.2.1 and 6.3.1)."""
    if isinstance(key, rsa.RSAPublicKey):
        modulus = key.public_numbers()
        return {"kty": "RSA", "n": _uint(modulus.n), "e": _uint(modulus.e)}
    curve = _curve_of(key)
    point = key.public_numbers()
    return {
        "kty": "EC",
        "crv": curve.name,
        "x": base64url.encode(point.x.to_bytes(curve.coordinate_bytes, "big")),
        "y": base64url.encode(point.y.to_bytes(curve.coordinate_bytes, "big")),
    }


def thumbprint(key: PublicKey) -> str:
    """RFC 7638 SHA-256 thumbprint, base64url."""
    canonical = json.dumps(public_members(key), sort_keys=True, separators=(",", ":"))
    return base64url.encode(hashlib.sha256(canonical.encode("ascii")).digest())


def _rsa_key(members: Mapping[str, Json]) -> rsa.RSAPublicKey:
    modulus, exponent = _integer(members, "n"), _integer(members, "e")
    if not _MIN_RSA_BITS <= modulus.bit_length() <= _MAX_RSA_BITS:
        raise MalformedJwk(f"rsa modulus of {modulus.bit_length()} bits, expected {_MIN_RSA_BITS} to {_MAX_RSA_BITS}")
    if exponent.bit_length() > 32:
        raise MalformedJwk("rsa exponent longer than 32 bits")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise MalformedJwk("`n` and `e` are not an rsa public key") from None


def _ec_key(members: Mapping[str, Json]) -> ec.EllipticCurvePublicKey | None:
    name = _text(members, "crv")
    curve = next((curve for curve in _CURVES if curve.name == name), None)
    if curve is None:
        return None
    x, y = _bytes(members, "x"), _bytes(members, "y")
    if len(x) != curve.coordinate_bytes or len(y) != curve.coordinate_bytes:
        raise MalformedJwk(f"`x` and `y` of {name} have to be {curve.coordinate_bytes} bytes each")
    try:
        numbers = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve.curve)
        return numbers.public_key()
    except ValueError:
        raise MalformedJwk(f"`x` and `y` are not a point on {name}") from None


def _curve_of(key: ec.EllipticCurvePublicKey) -> _Curve:
    for curve in _CURVES:
        if key.curve.name == curve.curve.name:
            return curve
    raise MalformedJwk(f"curve {key.curve.name} is not one of P-256, P-384, P-521")


def _text(members: Mapping[str, Json], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str):
        raise MalformedJwk(f"`{name}` is missing or not a string")
    return value


def _bytes(members: Mapping[str, Json], name: str) -> bytes:
    try:
        return base64url.decode(_text(members, name))
    except ValueError as error:
        raise MalformedJwk(f"`{name}` is {error}") from None


def _integer(members: Mapping[str, Json], name: str) -> int:
    """Base64urlUInt: as few bytes as possible (RFC 7518 section 2)."""
    raw = _bytes(members, name)
    if not raw or raw[0] == 0:
        raise MalformedJwk(f"`{name}` is empty or has leading zero bytes")
    return int.from_bytes(raw, "big")


def _uint(value: int) -> str:
    return base64url.encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))
