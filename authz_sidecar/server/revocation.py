"""The RPCs of revocation, the kill switch and receipts: convert, call one use case, convert back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from typing import assert_never

from authz_sidecar.engine.core import Core
from authz_sidecar.engine.feed import FeedMessage, Heartbeat, RevocationFeed, Snapshot
from authz_sidecar.engine.receipt import ReportReceipt
from authz_sidecar.engine.revoke import RevokeToken, revoke_command
from authz_sidecar.engine.suspend import ChangeStanding
from authz_sidecar.identity.subject import Subject
from authz_sidecar.revoked import EVERY_AGENT, Revocation
from authz_sidecar.server import convert
from authz_sidecar.server.access import Role, Roles
from authz_sidecar.server.rpc import ServerStreamHandler, UnaryHandler
from authz_sidecar.v1 import admin_pb2, authorization_pb2, token_pb2
from authz_sidecar.verifier import JwkSet


class RevocationServices:
    """Handlers by RPC name."""

    def __init__(self, *, core: Core, feed: RevocationFeed, roles: Roles, receipt_keys: Mapping[str, JwkSet]) -> None:
        self._revoke = RevokeToken(core)
        self._standing = ChangeStanding(core)
        self._receipt = ReportReceipt(core, receipt_keys)
        self._feed = feed
        self._roles = roles

    def unary(self) -> Mapping[str, UnaryHandler]:
        return {
            "TokenService/RevokeToken": self.revoke_token,
            "AdminService/SuspendAgent": self.suspend_agent,
            "AdminService/ResumeAgent": self.resume_agent,
            "AdminService/SuspendAll": self.suspend_all,
            "AuthorizationService/ReportReceipt": self.report_receipt,
        }

    def watch(self) -> Mapping[str, ServerStreamHandler]:
        return {"TokenService/WatchRevocations": self.watch_revocations}

    async def revoke_token(
        self, subject: Subject, request: token_pb2.RevokeTokenRequest
    ) -> token_pb2.RevokeTokenResponse:
        form = request.WhichOneof("target")
        command = revoke_command(form, getattr(request, form) if form is not None else "", request.reason)
        any_agent = Role.OPERATOR in self._roles.of(subject)
        answer = await self._revoke(subject, command, any_agent=any_agent)
        return token_pb2.RevokeTokenResponse(
            position=convert.position(answer.position), revocation_epoch=answer.revocation_epoch
        )

    async def suspend_agent(
        self, subject: Subject, request: admin_pb2.SuspendAgentRequest
    ) -> admin_pb2.SuspendAgentResponse:
        answer = await self._standing.suspend(subject, request.agent, request.reason)
        return admin_pb2.SuspendAgentResponse(
            position=convert.position(answer.position), revocation_epoch=answer.revocation_epoch
        )

    async def suspend_all(self, subject: Subject, request: admin_pb2.SuspendAllRequest) -> admin_pb2.SuspendAllResponse:
        answer = await self._standing.suspend(subject, EVERY_AGENT, request.reason)
        return admin_pb2.SuspendAllResponse(
            position=convert.position(answer.position), revocation_epoch=answer.revocation_epoch
        )

    async def resume_agent(
        self, subject: Subject, request: admin_pb2.ResumeAgentRequest
    ) -> admin_pb2.ResumeAgentResponse:
        answer = await self._standing.resume(subject, request.agent, request.reason)
        return admin_pb2.ResumeAgentResponse(position=convert.position(answer.position))

    async def report_receipt(
        self, subject: Subject, request: authorization_pb2.ReportReceiptRequest
    ) -> authorization_pb2.ReportReceiptResponse:
        answer = await self._receipt(subject, request.jws)
        return authorization_pb2.ReportReceiptResponse(
            position=convert.position(answer.position),
            contradictions=answer.contradictions,
            recalled=answer.recalled,
        )

    async def watch_revocations(
        self, _subject: Subject, request: token_pb2.WatchRevocationsRequest
    ) -> AsyncIterator[token_pb2.WatchRevocationsResponse]:
        async with aclosing(self._feed.watch(request.after_sequence)) as messages:
            async for message in messages:
                yield _response(message)


def _response(message: FeedMessage) -> token_pb2.WatchRevocationsResponse:
    match message:
        case Snapshot():
            told = [_revocation(one) for one in message.revocations]
            return token_pb2.WatchRevocationsResponse(
                sequence=message.sequence,
                snapshot=token_pb2.RevocationSnapshot(revocations=told, more=message.more),
            )
        case Revocation():
            return token_pb2.WatchRevocationsResponse(sequence=message.sequence, revocation=_revocation(message))
        case Heartbeat():
            return token_pb2.WatchRevocationsResponse(
                sequence=message.sequence, heartbeat=token_pb2.Heartbeat(time=convert.timestamp(message.time))
            )
    assert_never(message)


def _revocation(revocation: Revocation) -> token_pb2.Revocation:
    end = revocation.expires_at
    told = token_pb2.Revocation(
        expires_at=convert.timestamp(datetime.fromtimestamp(end, UTC)) if end is not None else None,
        task_epoch=revocation.task_epoch,
        sequence=revocation.sequence,
    )
    setattr(told, revocation.kind, revocation.target)
    return told
