"""From a recorded permit to the claims of its token: one pure function, so that the record determines the token.

That is what makes a recalled decision carry the same token, and lets an auditor say from the ledger alone what was
handed out. Nothing is added here that the record does not say. Sources of the claims: `verifier/claims.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from authz_sidecar.errors import SidecarError
from authz_sidecar.strictjson import Json
from authz_sidecar.verifier.claims import DECISION_CLAIM, MAX_DELEGATIONS, TOOL_CALL_TYPE


class MintRefused(SidecarError):
    """The record does not stand for a permit, or contradicts itself. A bug of ours, so nothing is signed."""

    reason = "MINT_REFUSED"


def claims_of(record: Mapping[str, Json], *, issuer: str) -> dict[str, Json]:
    """The claims of the token that belongs to a `decision` record.

    `sub` is the initiator when its credential was verified, otherwise the agent that started the root task: an
    initiator that nobody checked is a claim of the agent, and a tool server would take it for a fact. Unless it is the
    acting agent itself, `act` names the agents between: the acting one outermost, those who delegated nested in it, up
    to but without `sub` (RFC 8693 section 4.1).

    Args:
        record: body of a decision record whose outcome is permit; its `token` holds what `Minter.plan` returned.
        issuer: `iss`, an https URL.

    Raises:
        MintRefused: not a permit, a part is missing or has the wrong type, the token would outlive the task, the chain
            is deeper than a verifier accepts, or a human initiator's id looks like a SPIFFE ID, which would make a
            person of it that is an agent elsewhere.
    """
    if record.get("type") != "decision" or record.get("outcome") != "permit":
        raise MintRefused("expected a decision record with the outcome permit")
    token, tool, task = _object(record, "token"), _object(record, "tool"), _object(record, "task")
    agent = _text(_object(record, "actor"), "spiffe_id")
    above = _delegators(record)
    subject = _subject(record, above[0] if above else agent)
    expires_at = _integer(token, "exp")
    if expires_at > _time(task, "expires_at"):
        raise MintRefused("`token.exp`: later than the end of the task")
    audience = _text(token, "aud")
    return {
        "iss": issuer,
        "sub": subject,
        "aud": audience,
        "client_id": agent,
        "iat": _integer(token, "iat"),
        "nbf": _integer(token, "nbf"),
        "exp": expires_at,
        "jti": _text(token, "jti"),
        "txn": _text(task, "id"),
        **({"act": _actors([*above, agent], subject)} if subject != agent else {}),
        "cnf": _object(token, "cnf"),
        "authorization_details": [
            {
                "type": TOOL_CALL_TYPE,
                "locations": [audience],
                "actions": [f"{_text(tool, 'server')}/{_text(tool, 'name')}"],
                "identifier": _text(_object(record, "resource"), "id"),
                "arguments_sha256": _text(tool, "arguments_sha256"),
            }
        ],
        DECISION_CLAIM: {
            "id": _text(record, "id"),
            "policy_sha256": _text(_object(record, "policy"), "sha256"),
            "task_epoch": _integer(task, "epoch"),
            # A record that does not say counts as older than every revocation.
            "revocation_epoch": _integer(record, "revocation_epoch") if "revocation_epoch" in record else 0,
        },
    }


def _delegators(record: Mapping[str, Json]) -> list[str]:
    """The agents above the acting one, the root first."""
    chain = record.get("delegation", [])
    if not isinstance(chain, list) or len(chain) > MAX_DELEGATIONS:
        raise MintRefused(f"`delegation`: expected at most {MAX_DELEGATIONS} tasks above")
    hops = [hop if isinstance(hop, dict) else {} for hop in chain]
    if [hop.get("depth") for hop in hops] != list(range(len(hops))):
        raise MintRefused("`delegation`: expected every depth from 0 on")
    return [_text(hop, "agent") for hop in hops]


def _actors(agents: Sequence[str], subject: str) -> dict[str, Json]:
    """`act` for agents from the root to the acting one; the root agent is left out when it is the subject."""
    actors: dict[str, Json] | None = None
    for agent in agents if agents[0] != subject else agents[1:]:
        actors = {"sub": agent} if actors is None else {"sub": agent, "act": actors}
    if actors is None:
        raise MintRefused("`delegation`: nobody acts")
    return actors


def _subject(record: Mapping[str, Json], agent: str) -> str:
    initiator = _object(record, "initiator")
    if initiator.get("verified") is not True:
        return agent
    identifier = _text(initiator, "id")
    if initiator.get("kind") == "human" and identifier.startswith("spiffe://"):
        raise MintRefused("`initiator.id`: a human whose id is a SPIFFE ID could be taken for that workload")
    return identifier


def _object(members: Mapping[str, Json], name: str) -> dict[str, Json]:
    value = members.get(name)
    if not isinstance(value, dict):
        raise MintRefused(f"record: expected `{name}` to be an object")
    return value


def _text(members: Mapping[str, Json], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value:
        raise MintRefused(f"record: expected `{name}` to be a string that is not empty")
    return value


def _integer(members: Mapping[str, Json], name: str) -> int:
    value = members.get(name)
    if type(value) is not int:
        raise MintRefused(f"record: expected `{name}` to be an integer")
    return value


def _time(members: Mapping[str, Json], name: str) -> float:
    try:
        return datetime.fromisoformat(_text(members, name)).timestamp()
    except ValueError:
        raise MintRefused(f"record: expected `{name}` to be a time") from None
