"""The yardstick: a grpc.aio server with the same messages, credentials and socket kind, whose handlers do nothing.

Run as `python -m bench.noop SOCKET CERTIFICATE KEY BUNDLE`; prints `ready` when it listens.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from authz_sidecar.v1 import authorization_pb2, authorization_pb2_grpc, common_pb2


def answer(request: authorization_pb2.AuthorizeRequest) -> authorization_pb2.AuthorizeResponse:
    """A constant of the size that the sidecar really answers with."""
    response = authorization_pb2.AuthorizeResponse(
        request_id=request.request_id,
        decision_id="01890a5d-ac96-774b-bcce-b302099a8057",
        outcome=common_pb2.OUTCOME_PERMIT,
        reason_code="permitted",
        determining_policies=[
            common_pb2.DeterminingPolicy(
                id="read-contacts", effect="permit", reason="agents may read what their task covers", sha256="0" * 64
            )
        ],
        token=authorization_pb2.Token(value="e" * 1200, jti="0" * 22, audience="https://crm.example.org"),
        policy_digest="sha256:" + "0" * 64,
        position=common_pb2.LedgerPosition(log="authz.example.org/local", index=123456),
        resource="crm:contact/c-1001",
    )
    response.token.expires_at.FromSeconds(1_800_000_000)
    return response


class Noop(authorization_pb2_grpc.AuthorizationServiceServicer):
    async def Authorize(  # noqa: N802 - the generated name
        self, request: authorization_pb2.AuthorizeRequest, _context: object
    ) -> authorization_pb2.AuthorizeResponse:
        return answer(request)

    async def AuthorizeStream(  # noqa: N802
        self, requests: AsyncIterator[authorization_pb2.AuthorizeStreamRequest], _context: object
    ) -> AsyncIterator[authorization_pb2.AuthorizeStreamResponse]:
        async for message in requests:
            yield authorization_pb2.AuthorizeStreamResponse(
                request_id=message.request.request_id, response=answer(message.request)
            )


async def main(socket: str, certificate: bytes, key: bytes, bundle: bytes) -> None:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    authorization_pb2_grpc.add_AuthorizationServiceServicer_to_server(Noop(), server)
    server.add_secure_port(
        f"unix:{socket}", grpc.ssl_server_credentials([(key, certificate)], bundle, require_client_auth=True)
    )
    await server.start()
    print("ready", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], *(Path(name).read_bytes() for name in sys.argv[2:5])))
