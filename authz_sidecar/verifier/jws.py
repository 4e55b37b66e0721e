"""The compact JWS, in the one form that our tokens have (RFC 7515, RFC 7518 section 3.4, RFC 9068 section 2.1).

A token has exactly one spelling here: no padding, no unused bits, exactly three header members, the low form of the
signature. So nobody but the issuer can write a second text that means the same token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from authz_sidecar.strictjson import Json, MalformedJson, parse_object
from authz_sidecar.verifier import base64url
from authz_sidecar.verifier.keys import VerificationKey
from authz_sidecar.verifier.rejection import Reason, TokenRejected

MAX_TOKEN_CHARS = 8192
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
SCALAR_BYTES = 32
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")
ACCESS_TOKEN_TYPES = ("at+jwt", "application/at+jwt")
RECEIPT_TYPES = ("tool-receipt+jwt",)
_HEADER_MEMBERS = frozenset({"typ", "alg", "kid"})
_MAX_DEPTH = 8
_ES256 = ec.ECDSA(hashes.SHA256())


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactJws:
    """A token taken apart. Nothing in it is verified until `check_signature` has passed.

    Attributes:
        kid: names the key that is said to have signed.
        claims: the payload, parsed strictly.
        signing_input: the bytes that are signed.
        signature: r and s, 32 bytes each.
    """

    kid: str
    claims: dict[str, Json]
    signing_input: bytes
    signature: bytes


def parse_unverified(token: object, *, types: tuple[str, ...] = ACCESS_TOKEN_TYPES) -> CompactJws:
    """Steps 1 and 2 of `TokenVerifier.verify`. Raises TokenRejected; the signature is NOT checked.

    `types`: the values of `typ` to accept; a text of one kind is never taken for another (RFC 8725 section 3.11).
    """
    if not isinstance(token, str) or len(token) > MAX_TOKEN_CHARS or not _COMPACT.fullmatch(token):
        raise TokenRejected(
            Reason.MALFORMED, f"expected an ES256 JWS in compact form, without padding, at most {MAX_TOKEN_CHARS} long"
        )
    signing_input, _, signature = token.rpartition(".")
    header, _, payload = signing_input.partition(".")
    return CompactJws(
        kid=_kid_of(header, types),
        claims=_parse_segment("payload", payload),
        signing_input=signing_input.encode("ascii"),
        signature=_decode_segment("signature", signature),
    )


def check_signature(message: bytes, signature: bytes, key: VerificationKey) -> None:
    """Step 4: ES256 with r and s as 32 bytes each, s in the lower half of its range.

    ECDSA accepts (r, n-s) wherever it accepts (r, s). The issuer writes the low one; refusing the other one takes away
    the only way to change a token without its key. Raises TokenRejected.
    """
    r = int.from_bytes(signature[:SCALAR_BYTES], "big")
    s = int.from_bytes(signature[SCALAR_BYTES:], "big")
    if not 0 < r < P256_ORDER or not 0 < s <= P256_ORDER // 2:
        raise TokenRejected(Reason.BAD_SIGNATURE, "the signature is out of range or not in its low form")
    try:
        key.public_key.verify(utils.encode_dss_signature(r, s), message, _ES256)
    except InvalidSignature:
        raise TokenRejected(Reason.BAD_SIGNATURE, "the signature does not match the key named by `kid`") from None


@lru_cache(maxsize=16)
def _kid_of(segment: str, types: tuple[str, ...]) -> str:
    """The `kid` of an acceptable header. All tokens of a key have the same header, so few are parsed more than once.

    Values are attacker input and are not repeated in messages.
    """
    header = _parse_segment("header", segment)
    if header.get("typ") not in types:
        raise TokenRejected(Reason.WRONG_TYPE, f"header `typ`: expected `{types[0]}`; this is another kind of token")
    if not header.keys() <= _HEADER_MEMBERS:
        raise TokenRejected(Reason.FORBIDDEN_HEADER, "header: expected only `typ`, `alg` and `kid`")
    if header.get("alg") != "ES256":
        raise TokenRejected(Reason.WRONG_ALGORITHM, "header `alg`: expected `ES256`")
    kid = header.get("kid")
    if not isinstance(kid, str) or not base64url.is_sha256(kid):
        raise TokenRejected(Reason.UNKNOWN_KEY, "header `kid`: expected an RFC 7638 thumbprint")
    return kid


def _parse_segment(name: str, segment: str) -> dict[str, Json]:
    try:
        return parse_object(_decode_segment(name, segment), max_bytes=MAX_TOKEN_CHARS, max_depth=_MAX_DEPTH)
    except MalformedJson as error:
        raise TokenRejected(Reason.MALFORMED, f"{name}: {error}") from None


def _decode_segment(name: str, segment: str) -> bytes:
    try:
        return base64url.decode(segment)
    except ValueError as error:
        raise TokenRejected(Reason.MALFORMED, f"{name}: {error}") from None
