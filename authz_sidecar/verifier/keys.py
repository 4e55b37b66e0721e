"""The issuer's public keys: P-256 only, each named by its RFC 7638 thumbprint, each good for ES256 and nothing else.

Sources: RFC 7517 (JWK Set), RFC 7518 section 6.2 (EC keys), RFC 7638 (thumbprints), RFC 8725 sections 3.1 and 3.10.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric import ec

from authz_sidecar.strictjson import Json, MalformedJson, parse_object
from authz_sidecar.verifier import base64url

MAX_JWKS_BYTES = 65536
MAX_KEYS = 64
_COORDINATE_BYTES = 32
_SECRET_MEMBERS = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")


class MalformedJwks(ValueError):
    """The document is not a JWK Set that may be trusted. The message names the key by position."""


class KeysUnavailable(Exception):
    """The issuer's keys cannot be had now, or were last confirmed too long ago to rely on."""


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """One public key. `kid` is its thumbprint."""

    kid: str
    public_key: ec.EllipticCurvePublicKey

    @classmethod
    def of(cls, public_key: ec.EllipticCurvePublicKey) -> VerificationKey:
        """Raises ValueError when the key is not on P-256."""
        return cls(thumbprint(public_key), public_key)

    def to_jwk(self) -> dict[str, Json]:
        """The key as it is published: exactly one use and one algorithm."""
        return {**_required_members(self.public_key), "kid": self.kid, "use": "sig", "alg": "ES256"}


class KeySource(Protocol):
    """Where a verifier finds keys. Implementations are safe to call from several threads."""

    def find(self, kid: str) -> VerificationKey | None:
        """The key of that name, None when the issuer publishes no such key. Raises KeysUnavailable."""


@dataclass(frozen=True, slots=True)
class JwkSet:
    """A fixed set of keys. It is a `KeySource`; an empty set accepts nothing."""

    keys: Mapping[str, VerificationKey]

    @classmethod
    def of(cls, keys: Iterable[VerificationKey]) -> JwkSet:
        return cls(MappingProxyType({key.kid: key for key in keys}))

    @classmethod
    def parse(cls, raw: bytes) -> JwkSet:
        """Read a JWK Set.

        Asymmetric keys of other types, curves or algorithms are ignored (RFC 7517 section 5). Everything else that is
        wrong with any key refuses the whole document: half of a damaged key set is not a smaller key set.

        Raises:
            MalformedJwks: not JSON, duplicate members, more than 64 KiB or 64 keys, no `keys`, a symmetric or private
                key, `use` other than `sig`, a P-256 key without `alg` ES256, a coordinate that is not 32 bytes, a point
                off the curve, a `kid` that is not the key's thumbprint, or two keys with one `kid`.
        """
        try:
            members = parse_object(raw, max_bytes=MAX_JWKS_BYTES, max_depth=8)
        except MalformedJson as error:
            raise MalformedJwks(f"jwks: {error}") from None
        listed = members.get("keys")
        if not isinstance(listed, list) or len(listed) > MAX_KEYS:
            raise MalformedJwks(f"jwks: `keys` is missing, not a list, or longer than {MAX_KEYS}")
        keys: dict[str, VerificationKey] = {}
        for position, item in enumerate(listed):
            key = _parse_key(f"keys[{position}]", item)
            if key is None:
                continue
            if key.kid in keys:
                raise MalformedJwks(f"jwks: keys[{position}]: `kid` stands twice")
            keys[key.kid] = key
        return cls(MappingProxyType(keys))

    def find(self, kid: str) -> VerificationKey | None:
        return self.keys.get(kid)


def thumbprint(public_key: ec.EllipticCurvePublicKey) -> str:
    """RFC 7638 SHA-256 thumbprint of a P-256 key, base64url. Raises ValueError for another curve."""
    members = _required_members(public_key)
    # RFC 7638 section 3.2: required members in lexicographic order, no white space; none of these needs escaping.
    text = json.dumps(members, sort_keys=True, separators=(",", ":"))
    return base64url.encode(hashlib.sha256(text.encode("ascii")).digest())


def _required_members(public_key: ec.EllipticCurvePublicKey) -> dict[str, Json]:
    if not isinstance(public_key.curve, ec.SECP256R1):
        raise ValueError(f"expected a key on P-256, got one on {public_key.curve.name}")  # noqa: TRY004 (a value)
    point = public_key.public_numbers()
    return {
        "kty": "EC",
        "crv": "P-256",
        "x": base64url.encode(point.x.to_bytes(_COORDINATE_BYTES, "big")),
        "y": base64url.encode(point.y.to_bytes(_COORDINATE_BYTES, "big")),
    }


def _parse_key(place: str, item: Json) -> VerificationKey | None:
    """One entry of `keys`; None for a kind of key that cannot verify our tokens."""
    if not isinstance(item, dict):
        raise MalformedJwks(f"jwks: {place} is not an object")
    if item.get("kty") == "oct" or any(name in item for name in _SECRET_MEMBERS):
        raise MalformedJwks(f"jwks: {place} holds secret key material; publish public keys only, and replace this one")
    if item.get("use") != "sig":
        raise MalformedJwks(f"jwks: {place}: expected `use` to be `sig`")
    if item.get("kty") != "EC" or item.get("crv") != "P-256":
        return None
    if item.get("alg") != "ES256":
        raise MalformedJwks(f"jwks: {place}: expected `alg` to be `ES256` for a P-256 key")
    x, y = _coordinate(place, item, "x"), _coordinate(place, item, "y")
    try:
        key = VerificationKey.of(ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key())
    except ValueError:
        raise MalformedJwks(f"jwks: {place}: `x` and `y` are not a point on P-256") from None
    if item.get("kid") != key.kid:
        raise MalformedJwks(f"jwks: {place}: expected `kid` to be the key's RFC 7638 thumbprint")
    return key


def _coordinate(place: str, item: Mapping[str, Json], name: str) -> int:
    value = item.get(name)
    if not isinstance(value, str) or not base64url.is_sha256(value):
        raise MalformedJwks(f"jwks: {place}: expected `{name}` to be {_COORDINATE_BYTES} bytes as base64url")
    return int.from_bytes(base64url.decode(value), "big")
