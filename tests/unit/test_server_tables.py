"""The closed tables are closed: every RPC has a rule, every error a status."""

from __future__ import annotations

from datetime import UTC, datetime

import grpc
import pytest

from authz_sidecar import errors
from authz_sidecar.errors import RoleRequired
from authz_sidecar.identity.spiffe_id import SpiffeId
from authz_sidecar.identity.subject import Subject
from authz_sidecar.server import status
from authz_sidecar.server.access import TABLE, Role, Roles
from authz_sidecar.v1 import (
    admin_pb2,
    approval_pb2,
    authorization_pb2,
    ledger_pb2,
    policy_pb2,
    task_pb2,
    token_pb2,
)

MODULES = (admin_pb2, approval_pb2, authorization_pb2, ledger_pb2, policy_pb2, task_pb2, token_pb2)
CONTRACT = {
    f"{service.name}/{method.name}"
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


def caller(name: str) -> Subject:
    return Subject(
        spiffe_id=SpiffeId.parse(f"spiffe://example.org/{name}"),
        method="x509-svid",
        credential_sha256="0" * 64,
        not_after=datetime(2100, 1, 1, tzinfo=UTC),
        x5t_s256="x",
    )


def test_every_rpc_of_the_contract_has_exactly_one_rule():
    assert set(TABLE) == CONTRACT


def test_humans_services_are_closed_to_every_workload():
    roles = Roles({role: ["spiffe://example.org/all"] for role in Role if role is not Role.HUMAN})
    for name, rule in TABLE.items():
        if name.startswith("ApprovalService/"):
            with pytest.raises(RoleRequired):
                roles.require(name, rule, caller("all"))


@pytest.mark.parametrize("name", sorted(n for n in CONTRACT if n.startswith(("LedgerService", "AdminService"))))
def test_an_agent_reads_no_evidence_and_stops_nobody(name):
    roles = Roles({Role.AUDITOR: ["spiffe://example.org/auditor"]})
    with pytest.raises(RoleRequired, match=r"spiffe://example.org/agent"):
        roles.require(name, TABLE[name], caller("agent"))


def all_errors(base: type[errors.SidecarError]) -> set[type[errors.SidecarError]]:
    found = set(base.__subclasses__())
    return found | {deeper for error in found for deeper in all_errors(error)}


def test_every_error_for_callers_has_a_status_and_a_reason_of_its_own():
    families = (errors.CallerError, errors.CredentialError, errors.Unavailable)
    for error in all_errors(errors.SidecarError):
        if error.__module__ != "authz_sidecar.errors" or error in families[:2]:
            continue
        instance = error.of("f", "d") if error is errors.InvalidRequest else error("m")
        internal = status.status_of(instance) is grpc.StatusCode.INTERNAL
        assert internal == (error in (errors.OperatorError, errors.IntegrityFailure)), error


def test_reasons_are_unique_so_that_they_can_be_told_apart():
    named = [
        e for e in all_errors(errors.SidecarError) if e.__module__ == "authz_sidecar.errors" and "reason" in vars(e)
    ]
    assert len({error.reason for error in named}) == len(named)


@pytest.mark.parametrize(
    "error", [ValueError("token eyJ..."), errors.OperatorError("/etc/secret is wrong"), errors.IntegrityFailure("fork")]
)
def test_an_unexpected_failure_shows_a_fixed_text(error):
    shown = status.presentable(error)
    assert status.status_of(shown) is grpc.StatusCode.INTERNAL
    assert str(error) not in shown.message


def test_a_malformed_request_names_its_fields_in_both_forms():
    error = errors.InvalidRequest((errors.Violation("task_id", "expected x"), errors.Violation("ttl", "expected y")))
    message = status.to_message(error)
    assert [v.field for v in message.field_violations] == ["task_id", "ttl"]
    rich = status.to_rpc_status(error)
    assert [detail.type_url.rsplit(".", 1)[1] for detail in rich.details] == ["ErrorInfo", "BadRequest"]
