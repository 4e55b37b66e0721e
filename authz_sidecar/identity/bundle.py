"""Trust bundles: the authorities that may speak for one trust domain.

Source: SPIFFE Trust Domain and Bundle, section 4; X509-SVID section 6; JWT-SVID section 6.
A bundle never says which trust domain it is for: the operator does, and it is kept beside the keys (section 3).
Not checked: `spiffe_sequence`, the age of a bundle, the validity period of its certificates (path validation does).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from authz_sidecar.identity import certificate as certificates
from authz_sidecar.identity.certificate import MalformedCertificate
from authz_sidecar.identity.jwk import (
    JwtKey,
    MalformedJwk,
    PublicKey,
    algorithms_of,
    parse_public_key,
    public_members,
)
from authz_sidecar.identity.spiffe_id import TrustDomain
from authz_sidecar.strictjson import Json, MalformedJson, parse_object

MAX_BUNDLE_BYTES = 1 << 20
_MAX_KEYS = 256
_MAX_KID = 256


class MalformedBundle(ValueError):
    """The bytes are not a trust bundle. The message names the key by its position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustBundle:
    """The authorities of one trust domain. Both collections may be empty: then nothing is trusted.

    Attributes:
        trust_domain: the one trust domain they may speak for.
        x509_authorities: CA certificates.
        jwt_keys: JWT authorities by `kid`.
        version: lower-case hex SHA-256 of the bytes the bundle was read from.
    """

    trust_domain: TrustDomain
    x509_authorities: tuple[x509.Certificate, ...]
    jwt_keys: Mapping[str, JwtKey]
    version: str


@dataclass(frozen=True, slots=True)
class BundleSet:
    """Bundles by trust domain. There is deliberately no way to look an authority up without a trust domain.

    `version` changes whenever any bundle's bytes or any trust domain's name change.
    """

    bundles: Mapping[TrustDomain, TrustBundle]
    version: str = field(init=False)

    def __post_init__(self) -> None:
        bundles = dict(self.bundles)
        for trust_domain, bundle in bundles.items():
            if bundle.trust_domain != trust_domain:
                raise ValueError(f"the bundle of `{bundle.trust_domain}` was filed under `{trust_domain}`")
        lines = sorted(f"{trust_domain} {bundle.version}\n" for trust_domain, bundle in bundles.items())
        object.__setattr__(self, "bundles", MappingProxyType(bundles))
        object.__setattr__(self, "version", hashlib.sha256("".join(lines).encode()).hexdigest())

    @classmethod
    def of(cls, *bundles: TrustBundle) -> BundleSet:
        return cls({bundle.trust_domain: bundle for bundle in bundles})

    def get(self, trust_domain: TrustDomain) -> TrustBundle | None:
        return self.bundles.get(trust_domain)

    def x509_roots_pem(self) -> bytes:
        """Every X.509 authority of every trust domain, as PEM, for the TLS handshake.

        The handshake is only the first filter: it lets each authority speak for any name. `X509SvidVerifier` decides.
        """
        return b"".join(certificates.to_pem(bundle.x509_authorities) for bundle in self.bundles.values())


def parse_bundle(trust_domain: TrustDomain, raw: bytes) -> TrustBundle:
    """Read a SPIFFE bundle (a JWK set with `use`) or a list of PEM certificates.

    Keys with an unknown or missing `use`, an unknown `kty` or `crv`, and `x509-svid` keys without `x5c` are ignored,
    as the standard says. Whatever is meant for us and wrong refuses the whole bundle.

    Raises:
        MalformedBundle: longer than 1 MiB, neither JSON nor PEM, a duplicate member, no `keys`, a symmetric or private
            key, a certificate that is not a CA or not that of the key, a missing or duplicate `kid`, an RSA key below
            2048 bits, an `alg` that does not fit the key.
    """
    if len(raw) > MAX_BUNDLE_BYTES:
        raise MalformedBundle(f"bundle longer than {MAX_BUNDLE_BYTES} bytes")
    if raw.lstrip(b" \t\r\n").startswith(b"{"):
        authorities, jwt_keys = _parse_jwk_set(raw)
    else:
        authorities, jwt_keys = _parse_pem(raw), {}
    return TrustBundle(
        trust_domain=trust_domain,
        x509_authorities=authorities,
        jwt_keys=MappingProxyType(jwt_keys),
        version=hashlib.sha256(raw).hexdigest(),
    )


def bundle_to_json(bundle: TrustBundle, *, sequence: int, refresh_hint: timedelta) -> bytes:
    """The bundle in the SPIFFE bundle format. `parse_bundle` of it gives the same authorities."""
    keys: list[dict[str, Json]] = []
    for authority in bundle.x509_authorities:
        der = authority.public_bytes(Encoding.DER)
        keys.append({**_key_members(authority), "use": "x509-svid", "x5c": [base64.b64encode(der).decode("ascii")]})
    for key in bundle.jwt_keys.values():
        algorithm: dict[str, Json] = {"alg": next(iter(key.algorithms))} if len(key.algorithms) == 1 else {}
        keys.append({**public_members(key.public_key), **algorithm, "use": "jwt-svid", "kid": key.kid})
    document = {
        "spiffe_sequence": sequence,
        "spiffe_refresh_hint": int(refresh_hint.total_seconds()),
        "keys": keys,
    }
    return json.dumps(document, indent=2).encode("ascii") + b"\n"


def _parse_pem(raw: bytes) -> tuple[x509.Certificate, ...]:
    try:
        found = certificates.load_pem_chain(raw)
    except MalformedCertificate as error:
        raise MalformedBundle(f"expected a SPIFFE bundle (JSON) or PEM CA certificates: {error}") from None
    for position, authority in enumerate(found):
        _require_authority(authority, f"certificate {position}")
    return found


def _parse_jwk_set(raw: bytes) -> tuple[tuple[x509.Certificate, ...], dict[str, JwtKey]]:
    try:
        document = parse_object(raw, max_bytes=MAX_BUNDLE_BYTES, max_depth=8)
    except MalformedJson as error:
        raise MalformedBundle(f"bundle is {error}") from None
    entries = document.get("keys")
    if not isinstance(entries, list):
        raise MalformedBundle("`keys` is missing or not a list; write an empty list to trust nothing")
    if len(entries) > _MAX_KEYS:
        raise MalformedBundle(f"`keys` has {len(entries)} entries, at most {_MAX_KEYS} are read")
    authorities: list[x509.Certificate] = []
    jwt_keys: dict[str, JwtKey] = {}
    for position, entry in enumerate(entries):
        _add_entry(entry, f"keys[{position}]", authorities, jwt_keys)
    return tuple(authorities), jwt_keys


def _add_entry(entry: Json, where: str, authorities: list[x509.Certificate], jwt_keys: dict[str, JwtKey]) -> None:
    if not isinstance(entry, dict):
        raise MalformedBundle(f"`{where}` is not an object")
    use = entry.get("use")
    if use not in ("x509-svid", "jwt-svid"):
        return
    try:
        key = parse_public_key(entry)
    except MalformedJwk as error:
        raise MalformedBundle(f"`{where}`: {error}") from None
    if key is None:
        return
    if use == "x509-svid":
        authorities.extend(_x509_authority(entry, key, where))
        return
    jwt_key = _jwt_key(entry, key, where)
    if jwt_key.kid in jwt_keys:
        raise MalformedBundle(f"`{where}` repeats a `kid`; two keys must not share one")
    jwt_keys[jwt_key.kid] = jwt_key


def _x509_authority(entry: Mapping[str, Json], key: PublicKey, where: str) -> Iterable[x509.Certificate]:
    """X509-SVID section 6.2: no `x5c` means ignore the entry; of several values only the first counts."""
    chain = entry.get("x5c")
    if chain is None or chain == []:
        return ()
    if not isinstance(chain, list) or not isinstance(chain[0], str):
        raise MalformedBundle(f"`{where}.x5c` is not a list of strings")
    try:
        # RFC 7517 section 4.7: standard base64 with padding, unlike every other member.
        der = base64.b64decode(chain[0].encode("ascii"), validate=True)
        if base64.b64encode(der).decode("ascii") != chain[0]:
            raise MalformedBundle(f"`{where}.x5c[0]` is not canonical base64")
        authority = certificates.load_der(der)
    except (UnicodeEncodeError, binascii.Error):
        raise MalformedBundle(f"`{where}.x5c[0]` is not base64") from None
    except MalformedCertificate as error:
        raise MalformedBundle(f"`{where}.x5c[0]`: {error}") from None
    _require_authority(authority, f"{where}.x5c[0]")
    if _key_members(authority) != public_members(key):
        raise MalformedBundle(f"`{where}.x5c[0]` is a certificate for another key than `{where}`")
    return (authority,)


def _jwt_key(entry: Mapping[str, Json], key: PublicKey, where: str) -> JwtKey:
    kid, alg = entry.get("kid"), entry.get("alg")
    if not isinstance(kid, str) or not 0 < len(kid) <= _MAX_KID:
        raise MalformedBundle(f"`{where}.kid` is missing or not a string of 1 to {_MAX_KID} characters")
    algorithms = algorithms_of(key)
    if alg is None:
        return JwtKey(kid=kid, public_key=key, algorithms=algorithms)
    if not isinstance(alg, str) or alg not in algorithms:
        raise MalformedBundle(f"`{where}.alg` does not fit the key, expected one of {', '.join(sorted(algorithms))}")
    return JwtKey(kid=kid, public_key=key, algorithms=frozenset({alg}))


def _require_authority(authority: x509.Certificate, where: str) -> None:
    """A leaf in a bundle would vouch for itself: path validation ends at any certificate of the bundle."""
    constraints = certificates.extension(authority, x509.BasicConstraints)
    if constraints is None or not constraints.value.ca:
        raise MalformedBundle(f"`{where}` is not a CA certificate; a bundle holds authorities, never leaves")
    try:
        _key_members(authority)
    except MalformedJwk as error:
        raise MalformedBundle(f"`{where}` can not be used: {error}") from None


def _key_members(authority: x509.Certificate) -> dict[str, str]:
    key = authority.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey):
        raise MalformedJwk("the key of the certificate is neither rsa nor ec")
    return public_members(key)
