"""JWT-SVIDs of callers: bearer credentials, so accepted over the Unix socket only (the server sees to that).

Source: JWT-SVID sections 2 to 4; Workload API section 6.3 (the bundle is that of the trust domain of `sub`); RFC 8725.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from jwt.algorithms import get_default_algorithms

from authz_sidecar.clock import format_time
from authz_sidecar.errors import Unauthenticated
from authz_sidecar.identity.bundle import BundleSet
from authz_sidecar.identity.jwk import JWT_SVID_ALGORITHMS, JwtKey
from authz_sidecar.identity.lru import RecentlyUsed
from authz_sidecar.identity.spiffe_id import MalformedSpiffeId, SpiffeId
from authz_sidecar.identity.subject import Subject
from authz_sidecar.strictjson import Json, MalformedJson, parse_object
from authz_sidecar.verifier import base64url

MAX_TOKEN_BYTES = 8192
MAX_LEEWAY = timedelta(seconds=30)
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_HEADER_MEMBERS = frozenset({"alg", "kid", "typ"})
_LAST_SECOND = 253_402_300_799  # 9999-12-31T23:59:59Z, the end of what a datetime can hold


class _Refused(ValueError):
    """One check failed. Never quotes the token."""


@dataclass(frozen=True, slots=True)
class _Header:
    alg: str
    kid: str


@dataclass(frozen=True, slots=True)
class _Established:
    """What does not change while the bundles do not: a signed token's subject and its times."""

    subject: Subject
    not_before: datetime | None


class JwtSvidVerifier:
    """Establishes the workload behind a JWT-SVID. For use by one thread.

    The `max_cached` tokens used last are remembered, keyed by every byte of the token and the version of the bundles,
    so that the signature is checked once. Times are compared on every call.

    Not checked: replay. A JWT-SVID is a bearer token that its holder may use many times (JWT-SVID section 6.1).
    """

    def __init__(self, audience: str, leeway: timedelta = timedelta(seconds=10), *, max_cached: int = 1024) -> None:
        """Take the one audience accepted, and the clock difference tolerated between us and the issuer.

        Raises ValueError for an empty audience (it would match by accident) and for a leeway outside 0 to 30 s.
        """
        if not audience:
            raise ValueError("expected an audience, got an empty string")
        if not timedelta(0) <= leeway <= MAX_LEEWAY:
            raise ValueError(f"expected a leeway of 0 to {MAX_LEEWAY.seconds} s, got {leeway.total_seconds():g} s")
        self._audience = audience
        self._leeway = leeway
        available = get_default_algorithms()
        self._algorithms = {name: available[name] for name in sorted(JWT_SVID_ALGORITHMS)}
        self._established: RecentlyUsed[_Established] = RecentlyUsed(max_cached)

    def verify(self, token: str, *, bundles: BundleSet, now: datetime) -> Subject:
        """Check one JWT-SVID against the bundle of the trust domain of its `sub`.

        `Subject.not_after` is `exp`; within the leeway it may lie up to 30 s in the past.

        Args:
            token: compact serialization, without `Bearer `; at most 8 KiB.
            bundles: the current trust bundles.
            now: aware UTC.

        Raises:
            Unauthenticated: the message names the check that failed.
        """
        try:
            key = _cache_key(token, bundles)
            known = self._established.get(key)
            if known is None:
                known = self._establish(token, bundles)
                self._established.put(key, known)
            self._check_times(known, now)
        except _Refused as error:
            raise Unauthenticated(f"jwt-svid: {error}") from None
        return known.subject

    def _establish(self, token: str, bundles: BundleSet) -> _Established:
        compact = _COMPACT.fullmatch(token)
        if compact is None:
            raise _Refused("expected three base64url parts joined by dots, without padding")
        header = _parse_header(_decode_object(compact[1], "header", max_depth=1))
        claims = _decode_object(compact[2], "payload", max_depth=16)
        subject_id = _workload(claims)
        signing_key = _signing_key(bundles, subject_id, header)
        signing_input = f"{compact[1]}.{compact[2]}".encode("ascii")
        if not self._algorithms[header.alg].verify(signing_input, signing_key.public_key, _decode(compact[3])):
            raise _Refused("the signature does not verify")
        _check_audience(claims, self._audience)
        _number(claims, "iat")  # only its type: neither standard says to refuse a token for its age
        expires = _number(claims, "exp")
        if expires is None:
            raise _Refused("`exp` is missing")
        subject = Subject(
            spiffe_id=subject_id,
            method="jwt-svid",
            credential_sha256=hashlib.sha256(token.encode("ascii")).hexdigest(),
            not_after=expires,
            x5t_s256=None,
        )
        return _Established(subject, _number(claims, "nbf"))

    def _check_times(self, known: _Established, now: datetime) -> None:
        if not now - self._leeway < known.subject.not_after:
            raise _Refused(f"expired at {format_time(known.subject.not_after)}")
        if known.not_before is not None and now + self._leeway < known.not_before:
            raise _Refused(f"not valid before {format_time(known.not_before)}")


def _cache_key(token: str, bundles: BundleSet) -> bytes:
    if len(token) > MAX_TOKEN_BYTES:
        raise _Refused(f"longer than {MAX_TOKEN_BYTES} bytes")
    # A lone surrogate can be in a str but not in UTF-8; such a token is refused below for its characters.
    digest = hashlib.sha256(token.encode("utf-8", "surrogatepass"))
    digest.update(bundles.version.encode("ascii"))
    return digest.digest()


def _parse_header(members: Mapping[str, Json]) -> _Header:
    """JWT-SVID section 2. `kid` is optional there; every SPIFFE issuer sets it, and guessing keys is not for us."""
    if not members.keys() <= _HEADER_MEMBERS:
        unlisted = ", ".join(f"`{name[:32]}`" for name in sorted(members.keys() - _HEADER_MEMBERS)[:4])
        raise _Refused(f"header members {unlisted} must not be present")
    alg, kid = members.get("alg"), members.get("kid")
    if not isinstance(alg, str) or alg not in JWT_SVID_ALGORITHMS:
        raise _Refused(f"`alg` must be one of {', '.join(sorted(JWT_SVID_ALGORITHMS))}")
    if members.get("typ", "JWT") not in ("JWT", "JOSE"):
        raise _Refused("`typ` must be absent, `JWT` or `JOSE`")
    if not isinstance(kid, str):
        raise _Refused("`kid` is missing or not a string")
    return _Header(alg, kid)


def _workload(claims: Mapping[str, Json]) -> SpiffeId:
    """Section 3.1."""
    sub = claims.get("sub")
    if not isinstance(sub, str):
        raise _Refused("`sub` is missing or not a string")
    try:
        return SpiffeId.parse_workload(sub)
    except MalformedSpiffeId as error:
        raise _Refused(f"`sub` is not the SPIFFE ID of a workload: {error}") from None


def _signing_key(bundles: BundleSet, subject_id: SpiffeId, header: _Header) -> JwtKey:
    """Only keys of the subject's own trust domain are looked at, whatever `kid` says."""
    trust_domain = subject_id.trust_domain
    bundle = bundles.get(trust_domain)
    if bundle is None:
        raise _Refused(f"no trust bundle for trust domain `{trust_domain}`")
    key = bundle.jwt_keys.get(header.kid)
    if key is None:
        raise _Refused(f"`kid` is not a jwt authority of trust domain `{trust_domain}`")
    if header.alg not in key.algorithms:
        raise _Refused(f"`alg` does not fit the key, expected one of {', '.join(sorted(key.algorithms))}")
    return key


def _check_audience(claims: Mapping[str, Json], audience: str) -> None:
    """Section 3.2; RFC 7519 section 4.1.3: a string or an array of strings."""
    aud = claims.get("aud")
    values = [aud] if isinstance(aud, str) else aud
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise _Refused("`aud` is missing or not a string or a list of strings")
    if audience not in values:
        raise _Refused(f"`aud` does not contain `{audience}`")


def _number(claims: Mapping[str, Json], name: str) -> datetime | None:
    """A NumericDate (RFC 7519 section 2): a JSON number, never a string or a boolean."""
    if name not in claims:
        return None
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _Refused(f"`{name}` is not a number")
    if not 0 <= value <= _LAST_SECOND:
        raise _Refused(f"`{name}` is outside the years 1970 to 9999")
    return datetime.fromtimestamp(value, UTC)


def _decode(segment: str) -> bytes:
    try:
        return base64url.decode(segment)
    except ValueError as error:
        raise _Refused(str(error)) from None


def _decode_object(segment: str, where: str, *, max_depth: int) -> dict[str, Json]:
    try:
        return parse_object(_decode(segment), max_bytes=MAX_TOKEN_BYTES, max_depth=max_depth)
    except MalformedJson as error:
        raise _Refused(f"{where}: {error}") from None
