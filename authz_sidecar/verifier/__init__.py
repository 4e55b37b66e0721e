"""What a tool server imports to verify tokens: offline, on its own, with no other part of this project.

    from authz_sidecar.verifier import JwksFile, Presenter, TokenRejected, TokenVerifier

    keys = JwksFile(Path("/run/authz-sidecar/jwks.json"))
    verifier = TokenVerifier(issuer="https://authz.example.org", audience="https://crm.example.org", keys=keys)
    try:
        verifier.verify(
            token,
            presenter=Presenter.from_certificate(peer_certificate_der),
            tool="crm/read_contact",
            arguments=arguments,
            resource=None,
        )
    except TokenRejected as rejected:
        ...  # do not run the tool

Needs `cryptography` and `rfc8785` (the extra `verifier`). `docs/verifying-tokens.md` says what is left to the caller.
"""

from authz_sidecar.verifier.call import Presenter, arguments_sha256, x5t_s256
from authz_sidecar.verifier.claims import VerifiedToken
from authz_sidecar.verifier.jwks_file import JwksFile
from authz_sidecar.verifier.jwks_url import JwksUrl
from authz_sidecar.verifier.keys import JwkSet, KeySource, KeysUnavailable, MalformedJwks, VerificationKey, thumbprint
from authz_sidecar.verifier.one_shot import OneShot
from authz_sidecar.verifier.rejection import Reason, TokenRejected
from authz_sidecar.verifier.verifier import TokenVerifier

__all__ = [
    "JwkSet",
    "JwksFile",
    "JwksUrl",
    "KeySource",
    "KeysUnavailable",
    "MalformedJwks",
    "OneShot",
    "Presenter",
    "Reason",
    "TokenRejected",
    "TokenVerifier",
    "VerificationKey",
    "VerifiedToken",
    "arguments_sha256",
    "thumbprint",
    "x5t_s256",
]
