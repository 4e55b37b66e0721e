"""The caller, as established by a credential that was checked for this very call."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec

from authz_sidecar.identity.spiffe_id import SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A verified workload.

    Attributes:
        spiffe_id: the workload identity.
        method: kind of credential.
        credential_sha256: lower-case hex SHA-256 of the certificate (DER) or of the JWT-SVID; never the credential.
        not_after: end of the credential's life; nothing minted for the subject outlives it.
        x5t_s256: RFC 8705 certificate thumbprint, base64url without padding; None for a JWT-SVID.
        p256_key: public key of the certificate; None for a JWT-SVID and for keys of other kinds.
    """

    spiffe_id: SpiffeId
    method: Literal["x509-svid", "jwt-svid"]
    credential_sha256: str
    not_after: datetime
    x5t_s256: str | None
    p256_key: ec.EllipticCurvePublicKey | None = field(default=None, compare=False, repr=False)
