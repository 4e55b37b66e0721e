"""Token introspection over HTTP (RFC 7662), for tool servers that speak no gRPC.

`POST /introspect` with the form field `token`. The caller proves itself by a JWT-SVID as bearer credential and must be
a resource server or an operator. Everything that is not active looks the same.

Served to loopback peers only: both the caller's credential and the token that is asked about would otherwise cross a
network in the clear.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from authz_sidecar.engine.introspect import IntrospectToken
from authz_sidecar.errors import CredentialError, SidecarError
from authz_sidecar.identity.subject import Subject
from authz_sidecar.server.access import TABLE, Roles
from authz_sidecar.strictjson import Json

PATH = "/introspect"
_METHOD = "TokenService/IntrospectToken"
_FORM = "application/x-www-form-urlencoded"
_MOST_FIELDS = 8


class _Refused(Exception):
    """The request is answered by this HTTP status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message


def introspection_route(*, authenticate: Callable[[str], Subject], roles: Roles, introspect: IntrospectToken) -> Route:
    """The route.

    Args:
        authenticate: verifies a JWT-SVID now; raises Unauthenticated.
        roles: who may ask: as for the RPC.
    """

    rule = TABLE[_METHOD]

    async def endpoint(request: Request) -> Response:
        try:
            if not _is_loopback(request):
                raise _Refused(403, "introspection is served on the loopback interface only; use gRPC from elsewhere")
            roles.require(_METHOD, rule, authenticate(_bearer(request)))
            claims = introspect(_token(await _form(request, rule.max_request_bytes))).claims
        except CredentialError as error:
            # RFC 7662 section 2.3 and RFC 6750 section 3: a credential that does not do is 401, whatever the reason.
            return _challenge(error)
        except _Refused as refused:
            return _problem(refused.status, refused.message)
        except SidecarError:
            return _problem(503, "no answer is possible now")
        document = {"active": False} if claims is None else {"active": True, "token_type": _binding(claims), **claims}
        return _answer(200, document)

    return Route(PATH, endpoint, methods=["POST"])


def _is_loopback(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _bearer(request: Request) -> str:
    values = request.headers.getlist("authorization")
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    # An empty text is no JWT-SVID, and is refused as one.
    return token.strip() if scheme.lower() == "bearer" else ""


async def _form(request: Request, most: int) -> bytes:
    """The form's text. One that is too long is not read to its end."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise _Refused(415, f"expected `Content-Type: {_FORM}`")
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise _Refused(413, f"expected at most {most} bytes")
    return body


def _token(body: bytes) -> str:
    """The one `token` of a form. RFC 7662 section 2.1 allows other fields, such as `token_type_hint`."""
    try:
        fields = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=_MOST_FIELDS
        )
    except ValueError:
        fields = []
    values = [value for name, value in fields if name == "token"]
    if len(values) != 1 or not values[0]:
        raise _Refused(400, "expected exactly one form field `token`")
    return values[0]


def _binding(claims: Mapping[str, Json]) -> str:
    """How the token is presented: over mutual TLS like a bearer token, or with a proof of its key (RFC 9449)."""
    cnf = claims.get("cnf")
    return "DPoP" if isinstance(cnf, dict) and "jkt" in cnf else "Bearer"


def _challenge(error: CredentialError) -> Response:
    challenge = 'Bearer realm="authz-sidecar", error="invalid_token"'
    return _answer(401, {"error": "invalid_token", "reason": error.reason}, {"WWW-Authenticate": challenge})


def _problem(status: int, message: str) -> Response:
    return _answer(status, {"error": "invalid_request", "error_description": message})


def _answer(status: int, document: object, headers: dict[str, str] | None = None) -> Response:
    fixed = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Content-Type": "application/json"}
    return Response(json.dumps(document).encode(), status_code=status, headers={**fixed, **(headers or {})})
