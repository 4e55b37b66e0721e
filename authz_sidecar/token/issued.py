"""Read a token back on the issuer's side, for introspection: was it signed here, and has it not expired?"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from authz_sidecar.strictjson import Json
from authz_sidecar.token.keys import KeyRing
from authz_sidecar.verifier import Reason, TokenRejected
from authz_sidecar.verifier.claims import check_times
from authz_sidecar.verifier.jws import check_signature, parse_unverified
from authz_sidecar.verifier.verifier import find_key


class IssuedTokens:
    """Reads tokens of this issuer, whatever their audience, presenter and call: the tool server checks those."""

    def __init__(
        self,
        keyring: KeyRing,
        issuer: str,
        *,
        now: Callable[[], datetime],
        key_revoked: Callable[[str], bool] = lambda _: False,
    ) -> None:
        """`key_revoked`: whether a key, by `kid`, was revoked; nothing that it signed is ours any more."""
        self._keyring = keyring
        self._key_revoked = key_revoked
        self._issuer = issuer
        self._now = now

    def read(self, token: str) -> dict[str, Json]:
        """The claims. `jti`, `iss` and the times are there and have the right types; no leeway is given.

        NOT checked: whether the token was recorded, voided or revoked, and whether its task is active.

        Raises TokenRejected.
        """
        jws = parse_unverified(token)
        if self._key_revoked(jws.kid):
            raise TokenRejected(Reason.REVOKED, "header `kid`: the key is revoked")
        check_signature(jws.signing_input, jws.signature, find_key(self._keyring.public_keys, jws.kid))
        check_times(jws.claims, at=self._now().timestamp(), leeway=0)
        if jws.claims.get("iss") != self._issuer:
            raise TokenRejected(Reason.WRONG_ISSUER, f"`iss`: expected `{self._issuer}`")
        if not isinstance(jws.claims.get("jti"), str):
            raise TokenRejected(Reason.INVALID_CLAIM, "`jti`: expected a string")
        return jws.claims
