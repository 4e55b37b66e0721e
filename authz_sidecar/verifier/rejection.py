"""Why a token is not accepted: one closed list, so that callers can count and alert by reason."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Stable reasons, in the order in which `TokenVerifier.verify` can find them."""

    MALFORMED = "malformed"
    """Not a compact JWS in its one canonical spelling, or its JSON is not an object that every reader agrees on."""
    WRONG_TYPE = "wrong_type"
    """`typ` is not an access token's."""
    FORBIDDEN_HEADER = "forbidden_header"
    """A header member other than `typ`, `alg`, `kid`: none may bring or point to a key."""
    WRONG_ALGORITHM = "wrong_algorithm"
    """`alg` is not ES256."""
    UNKNOWN_KEY = "unknown_key"
    """No published key has this `kid`."""
    KEYS_UNAVAILABLE = "keys_unavailable"
    """The issuer's keys could not be read, or were last read too long ago."""
    BAD_SIGNATURE = "bad_signature"
    """The signature is not this key's signature over these bytes."""
    INVALID_CLAIM = "invalid_claim"
    """A claim is missing or has the wrong type."""
    EXPIRED = "expired"
    """`exp` has passed."""
    NOT_YET_VALID = "not_yet_valid"
    """`nbf` or `iat` lies in the future."""
    LIFETIME_TOO_LONG = "lifetime_too_long"
    """`exp` is not 1 to 300 seconds after `iat`."""
    WRONG_ISSUER = "wrong_issuer"
    """`iss` is somebody else."""
    WRONG_AUDIENCE = "wrong_audience"
    """`aud` is not exactly this tool server."""
    NOT_BOUND = "not_bound"
    """`cnf` is absent, or names no confirmation method or more than one: a bearer token."""
    WRONG_PRESENTER = "wrong_presenter"
    """The presenter did not prove the key or certificate of `cnf`, or is not the workload in `client_id`."""
    UNKNOWN_AUTHORIZATION = "unknown_authorization"
    """`authorization_details` is not exactly one tool call in the form known here."""
    WRONG_TOOL = "wrong_tool"
    """Granted for another tool."""
    WRONG_ARGUMENTS = "wrong_arguments"
    """Granted for other arguments."""
    WRONG_RESOURCE = "wrong_resource"
    """Granted for another resource."""
    REVOKED = "revoked"
    """The revocation hook knows the token, its task or its key as revoked."""
    STALE = "stale"
    """The revocation hook has not been told for too long what is revoked, and nobody can be asked instead."""
    INACTIVE = "inactive"
    """Introspection says that the token is not active."""
    STATUS_UNAVAILABLE = "status_unavailable"
    """The revocation hook or the introspection failed, so the answer is no."""
    REPLAYED = "replayed"
    """A one-shot verifier has accepted this `jti` before."""
    OVERLOADED = "overloaded"
    """A one-shot verifier remembers as many tokens as it may, so it cannot tell whether this one is a replay."""


class TokenRejected(Exception):
    """The call must not happen.

    Attributes:
        reason: one of `Reason`.
        message: names the claim or header, what was expected and what came. It never holds a token, a key, arguments or
            a digest of them, so it may be logged. Tell the caller no more than `reason`.
    """

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(reason, message)
        self.reason = reason
        self.message = message

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.message}"
