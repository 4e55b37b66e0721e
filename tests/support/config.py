"""A valid configuration file, whole, and the files it points to."""

from __future__ import annotations

import textwrap
from pathlib import Path

# Line numbers matter: the cases of test_config_problems.py name them.
PRODUCTION = textwrap.dedent(
    """\
    profile: production
    trust_domain: example.org
    environment: {name: prod, production: true}
    identity:
      svid: {certificate: svid.pem, private_key: svid.key}
      bundles: {example.org: bundle.pem}
      jwt_audience: spiffe://example.org/authz
    listeners:
      - {address: "unix:run/authz.sock", auth: mtls}
    http: {address: "127.0.0.1:9180"}
    access:
      operators: [spiffe://example.org/ops]
    policy: {directory: policies}
    ledger:
      directory: ledger
      origin: example.org/authz/agent
      checkpoint_key: checkpoint.pem
    token:
      issuer: https://authz.example.org
      signing_key: token.pem
    tasks: {default_ttl: 30m, max_ttl: 8h}
    limits: {max_arguments_bytes: 65536}
    log: {level: info}
    telemetry: {}
    """
)


def write_config(directory: Path, text: str = PRODUCTION) -> Path:
    """`authz.yaml` in `directory`, without the files it names."""
    path = directory / "authz.yaml"
    path.write_text(text)
    return path


def write_named_files(directory: Path) -> None:
    """What PRODUCTION points to."""
    for name in ("svid.pem", "bundle.pem"):
        (directory / name).write_text("")
    for name in ("svid.key", "checkpoint.pem", "token.pem"):
        (directory / name).touch(mode=0o600)
    (directory / "policies").mkdir()
    (directory / "run").mkdir()
