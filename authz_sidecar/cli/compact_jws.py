"""Reading a compact JWS without verifying it, for people who want to see what is in a token."""

from __future__ import annotations

from authz_sidecar.cli.exit_code import ExitCode
from authz_sidecar.cli.failure import CommandFailed
from authz_sidecar.strictjson import Json, MalformedJson, parse_object
from authz_sidecar.verifier import base64url

_MAX_TOKEN_BYTES = 16 * 1024


def decode_unverified(token: str) -> tuple[dict[str, Json], dict[str, Json]]:
    """Header and claims of a compact JWS (RFC 7515 section 7.1). Nothing about them is true until verified.

    Raises CommandFailed when it is not three base64url parts of which two are JSON objects. No part of the token is in
    the message.
    """
    parts = token.split(".")
    if len(token) > _MAX_TOKEN_BYTES:
        raise _malformed(f"longer than {_MAX_TOKEN_BYTES} bytes")
    if len(parts) != 3:
        raise _malformed(f"expected 3 parts between dots, got {len(parts)}")
    _decoded("signature", parts[2])
    return _object("header", parts[0]), _object("claims", parts[1])


def _object(name: str, part: str) -> dict[str, Json]:
    try:
        return parse_object(_decoded(name, part), max_bytes=_MAX_TOKEN_BYTES, max_depth=16)
    except MalformedJson as error:
        raise _malformed(f"{name}: {error}") from None


def _decoded(name: str, part: str) -> bytes:
    try:
        return base64url.decode(part)
    except ValueError as error:
        raise _malformed(f"{name}: {error}") from None


def _malformed(detail: str) -> CommandFailed:
    return CommandFailed(f"not a compact JWS: {detail}", ExitCode.CHECK_FAILED)
