"""Offline verification of tool-call tokens, in the order of `TokenVerifier.verify`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from authz_sidecar.strictjson import Json, MalformedJson
from authz_sidecar.verifier.call import Presenter, ToolCall, arguments_sha256
from authz_sidecar.verifier.claims import MAX_LEEWAY_SECONDS, Expected, VerifiedToken, check_claims
from authz_sidecar.verifier.jws import check_signature, parse_unverified
from authz_sidecar.verifier.keys import KeySource, KeysUnavailable, VerificationKey
from authz_sidecar.verifier.one_shot import OneShot
from authz_sidecar.verifier.rejection import Reason, TokenRejected


def _utc_now() -> datetime:
    return datetime.now(UTC)


class TokenVerifier:
    """Verifies tokens of one issuer for one tool server. Safe to share between threads."""

    def __init__(
        self,
        *,
        issuer: str,
        audience: str,
        keys: KeySource,
        leeway: int = 10,
        revocation: Callable[[VerifiedToken], bool | None] | None = None,
        introspect: Callable[[str], bool] | None = None,
        introspect_when_stale: Callable[[str], bool] | None = None,
        one_shot: OneShot | None = None,
        now: Callable[[], datetime] = _utc_now,
    ) -> None:
        """
        Args:
            issuer: `iss` exactly as configured in the sidecar; compared as text, never fetched.
            audience: `aud` of this tool server, exactly as in the sidecar's catalog.
            keys: the issuer's keys: a `JwkSet`, `JwksFile` or `JwksUrl`.
            leeway: how far this clock and the sidecar's may differ, in seconds, 0 to 30.
            revocation: True when the token (`jti`, `task_id`, `kid`, `agents`, `revocation_epoch`) is revoked, None
                when that is not known at present. Called only with a token that passed everything before it. An
                exception, or anything but False and None, refuses the token.
                `authz_sidecar.client.revocations.RevocationFeed` is one.
            introspect: asks the issuer whether the token is active, for every token. It gets the token text. An
                exception, or anything but True, refuses the token. It runs on the calling thread.
            introspect_when_stale: the same, asked only when `revocation` answered None. Without it, and without
                `introspect`, such a token is refused as `stale`.
            one_shot: accepts each token once.
            now: the clock, aware; read once per verification.

        Raises ValueError for an empty issuer or audience or a leeway out of range.
        """
        if not issuer or not audience:
            raise ValueError("`issuer` and `audience` must not be empty: an empty name would match an empty claim")
        if not 0 <= leeway <= MAX_LEEWAY_SECONDS:
            raise ValueError(f"`leeway`: expected 0 to {MAX_LEEWAY_SECONDS} seconds, got {leeway}")
        self._issuer = issuer
        self._audience = audience
        self._keys = keys
        self._leeway = leeway
        self._revocation = revocation
        self._introspect = introspect
        self._introspect_when_stale = introspect_when_stale
        self._one_shot = one_shot
        self._now = now

    def verify(
        self,
        token: str,
        *,
        presenter: Presenter,
        tool: str,
        resource: str | None,
        arguments: Mapping[str, Json] | None = None,
        arguments_sha256: bytes | None = None,
    ) -> VerifiedToken:
        """Accept the token for exactly this call, or raise TokenRejected.

        1. Form: a compact JWS of at most 8192 characters, unpadded canonical base64url.
        2. Header: no duplicate members; `typ` is `at+jwt`; nothing but `typ`, `alg`, `kid`; `alg` is ES256.
        3. Key: `kid` is a key that the issuer publishes. A key is P-256 and good for ES256 only.
        4. Signature, in its low form.
        5. Times: `exp`, `nbf`, `iat` are integers; not expired, not from the future; at most 300 s of life.
        6. `iss` and `aud` are exactly the strings expected.
        7. `cnf` is there, and the presenter proved that certificate or key.
        8. `client_id` is the presenter's SPIFFE ID, when that is known; the acting agent in `act` is `client_id`.
        9. `authorization_details` is one tool call: this tool, these arguments, this resource.
        10. Not revoked; active according to introspection. Only where hooks are given. Where it is not known what is
            revoked (the feed is stale): introspection is asked, or the token is refused.
        11. Not used before. Only with `one_shot`.

        Args:
            token: the compact JWS, without the `Bearer ` or `DPoP ` in front.
            presenter: who presented it, as established by the connection.
            tool: "server/name" as in the sidecar's catalog.
            resource: what the call touches, compared with the resource that was granted. None does not compare: right
                where the catalog derives the resource from the arguments, whose digest then pins it; wrong where the
                catalog lets the agent declare it.
            arguments: the arguments that will be executed, parsed from JSON. Give these or their digest.
            arguments_sha256: `verifier.arguments_sha256()` of them.

        NOT checked: the peer's certificate (the TLS layer's work), whether the task still runs and the decision was
        recorded (ask introspection), and that what is executed afterwards really is these arguments (yours).

        Raises:
            TokenRejected: with the first reason found; do not run the tool.
            ValueError: both or neither of `arguments` and `arguments_sha256` given, or a digest that is not 32 bytes.
        """
        if (arguments is None) == (arguments_sha256 is None):
            raise ValueError("give `arguments` or `arguments_sha256`, not both: the call has to be compared")
        at = self._now().timestamp()
        jws = parse_unverified(token)  # 1, 2
        key = find_key(self._keys, jws.kid)  # 3
        check_signature(jws.signing_input, jws.signature, key)  # 4
        # Only now: canonicalising large arguments is work that a stranger must not be able to cause.
        digest = _digest(arguments) if arguments is not None else arguments_sha256
        if digest is None or len(digest) != 32:
            raise ValueError("`arguments_sha256`: expected 32 bytes")
        expected = Expected(
            issuer=self._issuer,
            audience=self._audience,
            leeway=self._leeway,
            presenter=presenter,
            call=ToolCall(tool=tool, arguments_sha256=digest.hex(), resource=resource),
        )
        verified = check_claims(jws.claims, kid=jws.kid, expected=expected, at=at)  # 5 to 9
        self._check_status(token, verified)  # 10
        if self._one_shot is not None:  # 11
            until = verified.expires_at.timestamp() + self._leeway
            self._one_shot.redeem(issuer=verified.issuer, jti=verified.jti, until=until, at=at)
        return verified

    def _check_status(self, token: str, verified: VerifiedToken) -> None:
        """Step 10. The hooks are foreign code: whatever they raise, the answer is no."""
        introspect = self._introspect
        if self._revocation is not None:
            try:
                revoked = self._revocation(verified)
            except Exception as error:
                raise TokenRejected(Reason.STATUS_UNAVAILABLE, "the revocation hook failed") from error
            if revoked is None:
                introspect = introspect or self._introspect_when_stale
                if introspect is None:
                    raise TokenRejected(
                        Reason.STALE, "what is revoked is not known at present, and there is no introspection to ask"
                    )
            elif revoked is not False:
                raise TokenRejected(Reason.REVOKED, "the token, its task, its agent or its key is revoked")
        if introspect is not None:
            try:
                active = introspect(token)
            except Exception as error:
                raise TokenRejected(Reason.STATUS_UNAVAILABLE, "introspection failed") from error
            if active is not True:
                raise TokenRejected(Reason.INACTIVE, "introspection says that the token is not active")


def find_key(keys: KeySource, kid: str) -> VerificationKey:
    """Step 3. Raises TokenRejected."""
    try:
        key = keys.find(kid)
    except KeysUnavailable as error:
        raise TokenRejected(Reason.KEYS_UNAVAILABLE, str(error)) from error
    if key is None:
        raise TokenRejected(Reason.UNKNOWN_KEY, "header `kid`: the issuer publishes no such key")
    return key


def _digest(arguments: Mapping[str, Json]) -> bytes:
    try:
        return arguments_sha256(arguments)
    except MalformedJson as error:
        raise TokenRejected(Reason.WRONG_ARGUMENTS, str(error)) from None
