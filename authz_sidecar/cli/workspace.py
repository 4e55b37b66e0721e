"""Where `init` puts things, so that other commands find them: one directory, named once here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CERTIFICATE, PRIVATE_KEY, BUNDLE = "svid.pem", "svid_key.pem", "bundle.pem"
AUTHORITY_KEYS = ("ca-key.pem", "jwt-key.pem")


@dataclass(frozen=True, slots=True)
class Workspace:
    """The files of a development trust domain and its sidecar, below `root`."""

    root: Path

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def policies(self) -> Path:
        return self.root / "policies"

    @property
    def authority(self) -> Path:
        """The development authority: whoever reads it can be any workload."""
        return self.root / "authority"

    @property
    def trust_bundle(self) -> Path:
        """The trust domain's bundle in the SPIFFE format."""
        return self.root / "trust" / "bundle.json"

    @property
    def token_key(self) -> Path:
        return self.root / "keys" / "token.pem"

    @property
    def checkpoint_key(self) -> Path:
        return self.root / "keys" / "checkpoint.pem"

    @property
    def checkpoint_vkey(self) -> Path:
        return self.root / "keys" / "checkpoint.vkey"

    @property
    def svids(self) -> Path:
        """One directory for each workload, with the file names of spiffe-helper."""
        return self.root / "svids"

    @property
    def ledger(self) -> Path:
        """Made by `serve`."""
        return self.root / "ledger"

    @property
    def run(self) -> Path:
        """Where `serve` makes its socket."""
        return self.root / "run"
