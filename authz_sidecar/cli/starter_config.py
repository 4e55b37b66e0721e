"""The configuration that `init` starts from: complete for development, and short enough to be read."""

from __future__ import annotations

from pathlib import Path

from authz_sidecar.cli.workspace import CERTIFICATE, PRIVATE_KEY, Workspace
from authz_sidecar.identity.spiffe_id import TrustDomain

_TEMPLATE = """\
# Development configuration of the authorization sidecar, made by `authz-sidecar init`.
# Relative paths start at this file. `authz-sidecar config show` prints every key with its value.
profile: dev
trust_domain: {trust_domain}
environment: {{name: development, production: false}}
identity:
  svid: {{certificate: {sidecar}/{certificate}, private_key: {sidecar}/{private_key}}}
  bundles: {{{trust_domain}: {trust_bundle}}}
  jwt_audience: {audience}
listeners:
  - {{address: "unix:{run}/authz.sock", auth: mtls}}
http: {{address: "127.0.0.1:9180"}}
access:
  operators: ["spiffe://{trust_domain}/platform/operator"]
  auditors: ["spiffe://{trust_domain}/platform/operator"]
  security_engineers: ["spiffe://{trust_domain}/platform/operator"]
  resource_servers: ["spiffe://{trust_domain}/tools/crm"]
policy: {{directory: {policies}}}
ledger:
  directory: {ledger}
  origin: {origin}
  checkpoint_key: {checkpoint_key}
token:
  issuer: https://authz.{trust_domain}
  signing_key: {token_key}
"""


def log_origin(trust_domain: TrustDomain) -> str:
    """The name of the development ledger in its checkpoints."""
    return f"{trust_domain}/authz-sidecar/dev"


def starter_config(workspace: Workspace, trust_domain: TrustDomain) -> bytes:
    """The file, the same for every workspace of a trust domain: all its paths are relative."""

    def relative(path: Path) -> str:
        return str(path.relative_to(workspace.config.parent))

    text = _TEMPLATE.format(
        trust_domain=trust_domain,
        sidecar=relative(workspace.svids / "sidecar"),
        certificate=CERTIFICATE,
        private_key=PRIVATE_KEY,
        trust_bundle=relative(workspace.trust_bundle),
        audience=f"spiffe://{trust_domain}/authz-sidecar",
        run=relative(workspace.run),
        policies=relative(workspace.policies),
        ledger=relative(workspace.ledger),
        origin=log_origin(trust_domain),
        checkpoint_key=relative(workspace.checkpoint_key),
        token_key=relative(workspace.token_key),
    )
    return text.encode("ascii")
