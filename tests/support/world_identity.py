"""SVIDs of a world's own authority in every shape, right or wrong, and connections that present them."""

from __future__ import annotations

import json
import secrets
import socket
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from authz_sidecar.files import write_private, write_public
from tests.support.identity import Authority, JwtSigner, Leaf, jwks, pem, svid_claims, x509_jwk
from tests.support.sidecar import World

SUPPORT = "spiffe://example.org/agent/support"
AUDIENCE = "spiffe://example.org/authz-sidecar"


def now() -> datetime:
    return datetime.now(UTC)


def root(trust_domain: str) -> Authority:
    """An authority that is valid now."""
    return Authority.root(trust_domain, not_before=now() - timedelta(days=1), not_after=now() + timedelta(days=1))


@dataclass(frozen=True)
class WorldIdentity:
    """The authority that `init` made, in the hands of a test."""

    made: World

    @property
    def authority(self) -> Authority:
        directory = self.made.directory / "authority"
        return Authority(
            x509.load_pem_x509_certificate((directory / "ca.pem").read_bytes()), _key(directory / "ca-key.pem")
        )

    @property
    def signer(self) -> JwtSigner:
        kids = [key["kid"] for key in self._bundle()["keys"] if key["use"] == "jwt-svid"]
        return JwtSigner(kids[0], _key(self.made.directory / "authority" / "jwt-key.pem"))

    def leaf(self, *uris: str, issuer: Authority | None = None, **changes: Any) -> Leaf:
        """An SVID that is good for an hour, unless the test says otherwise."""
        times = {"not_before": now() - timedelta(minutes=1), "not_after": now() + timedelta(hours=1)}
        return (issuer or self.authority).leaf(*(uris or (SUPPORT,)), **times | changes)

    def jwt_svid(self, *, signer: JwtSigner | None = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A JWT-SVID of the support agent that is good for five minutes, unless the test says otherwise."""
        issued = int(now().timestamp())
        signing = signer or self.signer
        good = {"sub": SUPPORT, "aud": [AUDIENCE], "iat": issued, "exp": issued + 300}
        return signing.token(svid_claims(**good | claims), signing.header(**header or {}))

    def write_bundle(self, *authorities: Authority, name: str = "bundle.json", jwt: bool = True) -> Path:
        """Replace a trust bundle by one of these authorities, with the JWT key of the world's own."""
        path = self.made.directory / "trust" / name
        keys = [x509_jwk(authority) for authority in authorities]
        write_public(path, jwks(*keys, *([self.signer.jwk()] if jwt else [])))
        return path

    def write_sidecar_svid(self, svid: Leaf) -> None:
        """Replace the sidecar's own SVID, the key first."""
        directory = self.made.svid("sidecar")
        write_private(directory / "svid_key.pem", svid.key_pem)
        write_public(directory / "svid.pem", svid.chain_pem)

    def channel(self, leaf: Leaf | None, *, target: str | None = None) -> grpc.Channel:
        """A connection of its own that presents `leaf`."""
        pair = {} if leaf is None else {"private_key": leaf.key_pem, "certificate_chain": leaf.chain_pem}
        credentials = grpc.ssl_channel_credentials(pem(self.authority.certificate), **pair)
        options = [("grpc.ssl_target_name_override", "authz-sidecar"), ("grpc.use_local_subchannel_pool", 1)]
        return grpc.secure_channel(target or f"unix:{self.made.socket}", credentials, options=options)

    def served_certificate(self) -> x509.Certificate:
        """What the sidecar presents to a new connection."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(cadata=pem(self.authority.certificate).decode())
        support = self.made.svid("support")
        context.load_cert_chain(support / "svid.pem", support / "svid_key.pem")
        context.set_alpn_protocols(["h2"])
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(10)
            plain.connect(str(self.made.socket))
            with context.wrap_socket(plain, server_hostname="authz-sidecar") as connection:
                return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")

    def _bundle(self) -> dict[str, Any]:
        bundle: dict[str, Any] = json.loads((self.made.directory / "trust" / "bundle.json").read_bytes())
        return bundle


def edit_config(made: World, *changes: tuple[str, str]) -> None:
    """Replace texts of the configuration file, each of which must be there."""
    text = made.config.read_text()
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    made.config.write_text(text)


def thumbprint() -> str:
    """A well-formed RFC 7638 thumbprint of nobody's key."""
    return secrets.token_urlsafe(32)


def _key(path: Path) -> ec.EllipticCurvePrivateKey:
    key = load_pem_private_key(path.read_bytes(), password=None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key
