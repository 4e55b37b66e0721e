"""Steps 5 to 9: the claims of one of our tokens against one call. Pure; every rule of the token profile is here.

Claims: RFC 9068 section 2.2, RFC 8417 section 2.2 (`txn`), RFC 8693 section 4.1 (`act`), RFC 7800 and RFC 8705 section
3.1 and RFC 9449 section 6.1 (`cnf`), RFC 9396 section 2 (`authorization_details`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from types import MappingProxyType

from authz_sidecar.revoked import LONGEST_LIFE_SECONDS, acting_agents
from authz_sidecar.strictjson import Json
from authz_sidecar.verifier import base64url
from authz_sidecar.verifier.call import Presenter, ToolCall
from authz_sidecar.verifier.rejection import Reason, TokenRejected

TOOL_CALL_TYPE = "urn:x-authz-sidecar:tool-call"
DECISION_CLAIM = "urn:x-authz-sidecar:decision"
MAX_LIFETIME_SECONDS = LONGEST_LIFE_SECONDS
MAX_LEEWAY_SECONDS = 30
# Actors nested in the outermost `act`. A deeper chain is refused, never cut short.
MAX_DELEGATIONS = 4
_DETAIL_MEMBERS = frozenset({"type", "locations", "actions", "identifier", "arguments_sha256"})


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedToken:
    """An accepted token. It says that one call was permitted; it is no permission for the next one.

    Attributes:
        issuer, audience, kid: as required by the verifier.
        subject: `sub`, the principal on whose behalf; unique only together with `issuer`.
        client_id: SPIFFE ID of the agent that makes the call.
        jti: identifier of the token, unique per issuer. Key anything you remember on (issuer, jti), never on the text.
        task_id: `txn`, the task under which the call was permitted.
        task_epoch: how often the task had been resumed, counted from 1.
        revocation_epoch: number of the newest revocation when the call was permitted; a later one may cover the token.
        agents: SPIFFE IDs of everyone who holds or acted in the token, `client_id` first.
        issued_at, expires_at: aware UTC. The verifier's leeway is not part of `expires_at`.
        tool, resource, arguments_sha256: the call that was permitted; the digest in lower-case hex.
        decision_id, policy_sha256: the recorded decision behind the token, for your own log.
        delegators: agents behind the acting one, the nearest first, from `act`. Information only: they decide nothing.
        claims: what was signed, read-only at the top level.
    """

    issuer: str
    audience: str
    kid: str
    subject: str
    client_id: str
    jti: str
    task_id: str
    task_epoch: int
    revocation_epoch: int
    agents: tuple[str, ...]
    issued_at: datetime
    expires_at: datetime
    tool: str
    resource: str
    arguments_sha256: str
    decision_id: str
    policy_sha256: str
    delegators: tuple[str, ...]
    claims: Mapping[str, Json]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the claims must say. `leeway` in seconds."""

    issuer: str
    audience: str
    leeway: int
    presenter: Presenter
    call: ToolCall


def check_claims(claims: Mapping[str, Json], *, kid: str, expected: Expected, at: float) -> VerifiedToken:
    """Steps 5 to 9 of `TokenVerifier.verify`, for claims whose signature was checked. `at` is a Unix time.

    Raises TokenRejected.
    """
    issued_at, expires_at = check_times(claims, at=at, leeway=expected.leeway)
    _check_parties(claims, expected)
    check_confirmation(claims, expected.presenter)
    client_id, delegators = _check_actor(claims, expected.presenter)
    detail = _check_call(claims, expected)
    decision = _object(claims, DECISION_CLAIM)
    return VerifiedToken(
        issuer=expected.issuer,
        audience=expected.audience,
        kid=kid,
        subject=_text(claims, "sub"),
        client_id=client_id,
        jti=_text(claims, "jti"),
        task_id=_text(claims, "txn"),
        task_epoch=_integer(decision, "task_epoch"),
        revocation_epoch=_integer(decision, "revocation_epoch"),
        agents=acting_agents(claims),
        issued_at=datetime.fromtimestamp(issued_at, UTC),
        expires_at=datetime.fromtimestamp(expires_at, UTC),
        tool=expected.call.tool,
        resource=detail,
        arguments_sha256=expected.call.arguments_sha256,
        decision_id=_text(decision, "id"),
        policy_sha256=_text(decision, "policy_sha256"),
        delegators=delegators,
        claims=MappingProxyType(dict(claims)),
    )


def check_times(claims: Mapping[str, Json], *, at: float, leeway: int) -> tuple[int, int]:
    """Step 5: (`iat`, `exp`). RFC 7519 allows fractions; our tokens have none, and `true` or "1" are not numbers."""
    expires_at, not_before, issued_at = (_integer(claims, name) for name in ("exp", "nbf", "iat"))
    if at >= expires_at + leeway:
        raise TokenRejected(Reason.EXPIRED, f"`exp` has passed, leeway of {leeway} s included")
    if max(not_before, issued_at) > at + leeway:
        raise TokenRejected(Reason.NOT_YET_VALID, f"`nbf` or `iat` is more than {leeway} s ahead of this clock")
    if not 0 < expires_at - issued_at <= MAX_LIFETIME_SECONDS:
        raise TokenRejected(
            Reason.LIFETIME_TOO_LONG,
            f"expected `exp` 1 to {MAX_LIFETIME_SECONDS} s after `iat`, got {expires_at - issued_at} s",
        )
    return issued_at, expires_at


def check_confirmation(claims: Mapping[str, Json], presenter: Presenter) -> None:
    """Step 7. A token without `cnf` is a bearer token, and none of ours is."""
    cnf = claims.get("cnf")
    if not isinstance(cnf, dict) or len(cnf) != 1:
        raise TokenRejected(Reason.NOT_BOUND, "`cnf`: expected exactly one confirmation method")
    ((method, thumbprint),) = cnf.items()
    proven = {"x5t#S256": presenter.x5t_s256, "jkt": presenter.jkt}
    if method not in proven or not isinstance(thumbprint, str) or not base64url.is_sha256(thumbprint):
        raise TokenRejected(Reason.NOT_BOUND, "`cnf`: expected `x5t#S256` or `jkt` with a SHA-256 as base64url")
    if proven[method] != thumbprint:
        how = "presented another certificate" if proven[method] else "proved no key or certificate of that kind"
        raise TokenRejected(Reason.WRONG_PRESENTER, f"`cnf`: the token is bound by `{method}`, the presenter {how}")


def _check_parties(claims: Mapping[str, Json], expected: Expected) -> None:
    """Step 6. `aud` is one string: with a list, each audience could replay the token at the others."""
    if claims.get("iss") != expected.issuer:
        raise TokenRejected(Reason.WRONG_ISSUER, f"`iss`: expected `{expected.issuer}`")
    if claims.get("aud") != expected.audience:
        raise TokenRejected(Reason.WRONG_AUDIENCE, f"`aud`: expected exactly the string `{expected.audience}`")


def _check_actor(claims: Mapping[str, Json], presenter: Presenter) -> tuple[str, tuple[str, ...]]:
    """Step 8: the SPIFFE ID of the acting agent, and who is behind it.

    Only the outermost `act` decides (RFC 8693 section 4.1), but a chain that is not one refuses the token: nobody
    appears twice, the subject included, and it ends within `MAX_DELEGATIONS`.
    """
    client_id, subject = _text(claims, "client_id"), _text(claims, "sub")
    if presenter.spiffe_id is not None and client_id != presenter.spiffe_id:
        raise TokenRejected(Reason.WRONG_PRESENTER, "`client_id`: the token was issued to another workload")
    if subject == client_id and "act" not in claims:
        return client_id, ()
    actors: list[str] = []
    members: Mapping[str, Json] = claims
    while "act" in members or not actors:
        if len(actors) > MAX_DELEGATIONS:
            raise TokenRejected(Reason.INVALID_CLAIM, f"`act`: nested deeper than {MAX_DELEGATIONS}")
        members = _object(members, "act")
        actors.append(_text(members, "sub"))
    if actors[0] != client_id:
        raise TokenRejected(Reason.INVALID_CLAIM, "`act`: expected its `sub` to be `client_id`")
    if len({subject, *actors}) <= len(actors):
        raise TokenRejected(Reason.INVALID_CLAIM, "`act`: a party appears twice in the chain")
    return client_id, tuple(actors[1:])


def _check_call(claims: Mapping[str, Json], expected: Expected) -> str:
    """Step 9: the granted resource. A member that is not known here could be a constraint, so it refuses."""
    details = claims.get("authorization_details")
    detail = details[0] if isinstance(details, list) and len(details) == 1 else None
    if not isinstance(detail, dict) or detail.keys() != _DETAIL_MEMBERS or detail["type"] != TOOL_CALL_TYPE:
        raise TokenRejected(
            Reason.UNKNOWN_AUTHORIZATION, f"`authorization_details`: expected exactly one `{TOOL_CALL_TYPE}`"
        )
    if detail["locations"] != [expected.audience]:
        raise TokenRejected(Reason.UNKNOWN_AUTHORIZATION, "`authorization_details`: `locations` differs from `aud`")
    if detail["actions"] != [expected.call.tool]:
        raise TokenRejected(Reason.WRONG_TOOL, f"granted for another tool than `{expected.call.tool}`")
    if detail["arguments_sha256"] != expected.call.arguments_sha256:
        raise TokenRejected(Reason.WRONG_ARGUMENTS, "granted for other arguments than those of this call")
    resource = _text(detail, "identifier")
    if expected.call.resource is not None and resource != expected.call.resource:
        raise TokenRejected(Reason.WRONG_RESOURCE, "granted for another resource than that of this call")
    return resource


def _text(members: Mapping[str, Json], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value:
        raise TokenRejected(Reason.INVALID_CLAIM, f"`{name}`: expected a string that is not empty")
    return value


def _integer(members: Mapping[str, Json], name: str) -> int:
    value = members.get(name)
    # `type`, not isinstance: bool is an int to Python, and `"exp": true` is not a time.
    if type(value) is not int or value < 0:
        raise TokenRejected(Reason.INVALID_CLAIM, f"`{name}`: expected an integer that is not negative")
    return value


def _object(members: Mapping[str, Json], name: str) -> dict[str, Json]:
    value = members.get(name)
    if not isinstance(value, dict):
        raise TokenRejected(Reason.INVALID_CLAIM, f"`{name}`: expected an object")
    return value
