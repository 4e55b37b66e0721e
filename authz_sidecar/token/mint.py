"""Step 7 of the decision cycle: the token of a recorded permit. Build claims -> sign -> distrust what was signed.

`plan` comes before the record and fixes everything that is not in it yet; `mint` needs nothing but the record. So the
signature can be computed while the record is still on its way to the disk, and again when the decision is recalled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import orjson

from authz_sidecar.errors import NotReady, OperatorError
from authz_sidecar.strictjson import Json
from authz_sidecar.token.claims import MintRefused, claims_of
from authz_sidecar.token.keys import KeyRing
from authz_sidecar.verifier import Presenter, TokenRejected, base64url
from authz_sidecar.verifier.call import ToolCall
from authz_sidecar.verifier.claims import MAX_LIFETIME_SECONDS, Expected, check_claims
from authz_sidecar.verifier.jws import parse_unverified
from authz_sidecar.verifier.verifier import find_key

# `nbf` lies this much before `iat`, for tool servers whose clock is behind. SPIRE leaves 10 s; verifiers add leeway.
_NOT_BEFORE_CUSHION_SECONDS = 5
_SHORTEST_LIFE = timedelta(seconds=1)
# `exp` has no fractions, so up to a second of a ttl is lost to rounding down.
_SHORTEST_TTL = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class TokenLimits:
    """`ttl`: life of a token, 2 to 300 s, before the caps of `Minter.plan`. Raises OperatorError out of that range."""

    ttl: timedelta = timedelta(seconds=120)

    def __post_init__(self) -> None:
        if not _SHORTEST_TTL <= self.ttl <= timedelta(seconds=MAX_LIFETIME_SECONDS):
            raise OperatorError(
                f"token ttl: expected 2 to {MAX_LIFETIME_SECONDS} seconds, got {self.ttl.total_seconds():g}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class MintedToken:
    """`value` is the compact JWS, a secret: never log it. `expires_at` is `exp`, aware UTC."""

    value: str
    jti: str
    audience: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"MintedToken(jti={self.jti!r}, audience={self.audience!r}, expires_at={self.expires_at!r})"


class Minter:
    """Issues tokens of one issuer. Holds no state of its own and touches no clock."""

    def __init__(
        self,
        keyring: KeyRing,
        issuer: str,
        *,
        new_jti: Callable[[], str],
        limits: TokenLimits | None = None,
        key_revoked: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """
        Args:
            issuer: `iss`; tool servers compare it as text.
            new_jti: a fresh identifier from at least 128 random bits, URL-safe.
            key_revoked: whether a key, by `kid`, was revoked; it then signs nothing.

        Raises OperatorError for an empty issuer.
        """
        if not issuer:
            raise OperatorError("token issuer: must not be empty; use the https URL of this deployment")
        self.issuer = issuer
        self.keyring = keyring
        self._new_jti = new_jti
        self._key_revoked = key_revoked
        self._limits = limits or TokenLimits()
        self._headers: dict[str, str] = {}

    def plan(
        self, *, now: datetime, not_after: datetime, audience: str, cnf: Mapping[str, Json]
    ) -> dict[str, Json] | None:
        """The `token` part of a decision record: jti, iat, nbf, exp, aud, cnf, kid.

        `exp` is the earliest of now + ttl, `not_after` and the end of the signing key, rounded down to a second.

        Args:
            now: the request's one moment, aware.
            not_after: earliest end of anything the token depends on: the task, the caller's credential, an approval.
            audience: `aud`, the tool server's.
            cnf: `{"x5t#S256": …}` or `{"jkt": …}`.

        Returns None when less than a second of life would be left.
        Raises NotReady when the signing key has ended or was revoked.
        """
        key = self.keyring.active
        if self._key_revoked(key.kid):
            raise NotReady(f"signing key `{key.kid}` is revoked; activate a new one")
        end = min(now + self._limits.ttl, not_after)
        if key.not_after is not None:
            if now >= key.not_after:
                raise NotReady(f"signing key `{key.kid}` ended; activate a new one")
            end = min(end, key.not_after)
        issued_at, expires_at = int(now.timestamp()), int(end.timestamp())
        if expires_at - now.timestamp() < _SHORTEST_LIFE.total_seconds():
            return None
        return {
            "jti": self._new_jti(),
            "iat": issued_at,
            "nbf": issued_at - _NOT_BEFORE_CUSHION_SECONDS,
            "exp": expires_at,
            "aud": audience,
            "cnf": dict(cnf),
            "kid": key.kid,
        }

    def mint(self, record: Mapping[str, Json]) -> MintedToken:
        """The token of a recorded permit, signed by the key that the record names.

        The same record always gives the same claims. Whether the token still should be handed out (expired, task ended,
        voided) is NOT checked here: that is the use case's knowledge.

        The result is read back with the verifier's code and compared with the record, as of its `iat`. The signature
        itself is not verified again, see docs/adr/0008-own-signature-is-not-reverified.md.

        Raises MintRefused: see `claims_of`; or the key is no longer held; or the result would not be accepted.
        """
        claims = claims_of(record, issuer=self.issuer)
        planned = record["token"]
        kid = planned.get("kid") if isinstance(planned, dict) else None
        key = self.keyring.signing_key(kid) if isinstance(kid, str) else None
        if key is None or self._key_revoked(key.kid):
            raise MintRefused("`token.kid`: the signing key of this record is not held any more, or revoked")
        signing_input = f"{self._header(key.kid)}.{base64url.encode(orjson.dumps(claims))}"
        value = f"{signing_input}.{base64url.encode(key.sign(signing_input.encode('ascii')))}"
        self._distrust(value, record, claims)
        return MintedToken(
            value=value,
            jti=str(claims["jti"]),
            audience=str(claims["aud"]),
            expires_at=datetime.fromtimestamp(int(str(claims["exp"])), UTC),
        )

    def _header(self, kid: str) -> str:
        """The encoded header; a ring has few keys, so each is encoded once."""
        header = self._headers.get(kid)
        if header is None:
            members = {"typ": "at+jwt", "alg": "ES256", "kid": kid}
            header = self._headers[kid] = base64url.encode(orjson.dumps(members))
        return header

    def _distrust(self, value: str, record: Mapping[str, Json], claims: Mapping[str, Json]) -> None:
        """Steps 1 to 3 and 5 to 9 of the verifier, as the tool server would run them for the recorded call."""
        try:
            jws = parse_unverified(value)
            key = find_key(self.keyring.public_keys, jws.kid)
            verified = check_claims(jws.claims, kid=key.kid, expected=self._expected(record), at=_issued_at(claims))
        except (TokenRejected, ValueError) as error:
            raise MintRefused(f"the verifier would refuse the token: {error}") from None
        if jws.claims != claims or verified.jti != claims["jti"]:
            raise MintRefused("the token does not say what the record says")

    def _expected(self, record: Mapping[str, Json]) -> Expected:
        """What the tool server will require, read from the record without going through `claims_of`."""
        actor, token, tool, resource = (_part(record, name) for name in ("actor", "token", "tool", "resource"))
        cnf = _part(token, "cnf")
        return Expected(
            issuer=self.issuer,
            audience=str(token["aud"]),
            leeway=0,
            presenter=Presenter(
                x5t_s256=_optional_text(cnf.get("x5t#S256")),
                jkt=_optional_text(cnf.get("jkt")),
                spiffe_id=str(actor["spiffe_id"]),
            ),
            call=ToolCall(
                tool=f"{tool['server']}/{tool['name']}",
                arguments_sha256=str(tool["arguments_sha256"]),
                resource=str(resource["id"]),
            ),
        )


def _issued_at(claims: Mapping[str, Json]) -> float:
    return float(str(claims["iat"]))


def _part(members: Mapping[str, Json], name: str) -> Mapping[str, Json]:
    value = members[name]
    if not isinstance(value, dict):
        raise MintRefused(f"record: expected `{name}` to be an object")
    return value


def _optional_text(value: Json) -> str | None:
    return value if isinstance(value, str) else None
