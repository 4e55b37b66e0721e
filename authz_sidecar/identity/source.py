"""Our own SVID and the trust bundles, from files that a SPIFFE helper, a CSI driver or a Kubernetes Secret keeps fresh.

A broken file never replaces a good one, and never holds the others back: with a broken SVID on disk, an authority
removed from a bundle still stops being trusted.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from authz_sidecar.errors import OperatorError
from authz_sidecar.identity.bundle import BundleSet, MalformedBundle, TrustBundle, parse_bundle
from authz_sidecar.identity.spiffe_id import TrustDomain
from authz_sidecar.identity.watched import Watched, read_private, read_regular
from authz_sidecar.identity.x509_svid import MalformedSvid, X509Svid, parse_x509_svid


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentitySnapshot:
    """What is in use. `version` changes with any certificate or bundle."""

    svid: X509Svid
    bundles: BundleSet
    version: str


class FileIdentitySource:
    """The current identity. `current` may be called from any thread, also while another one refreshes.

    Not checked: whether the SVID has expired, or whether a bundle vouches for it. Both depend on the time.
    """

    def __init__(self, *, svid_cert: Path, svid_key: Path, bundles: Mapping[TrustDomain, Path]) -> None:
        """Read everything once; here every file has to be good.

        Args:
            svid_cert: PEM chain, leaf first.
            svid_key: its PEM key, private as `read_private` demands.
            bundles: for each trust domain its bundle, as a SPIFFE bundle or PEM.

        Raises:
            OperatorError: naming the file and the remedy.
        """
        self._lock = threading.Lock()
        self._svid = Watched((svid_cert, svid_key), partial(_read_svid, svid_cert, svid_key))
        self._bundles = [Watched((path,), partial(_read_bundle, domain, path)) for domain, path in bundles.items()]
        self._parts: tuple[Watched[X509Svid] | Watched[TrustBundle], ...] = (self._svid, *self._bundles)
        self._snapshot = self._assemble()

    def current(self) -> IdentitySnapshot:
        """The last good snapshot. Never reads a file."""
        return self._snapshot

    @property
    def last_error(self) -> str | None:
        """Why what is on disk is not in use, naming each file; None when all of it is."""
        errors = [part.error for part in self._parts if part.error is not None]
        return "; ".join(errors) or None

    def refresh(self) -> bool:
        """Read whatever changed. True when that gave a new snapshot. Never raises: see `last_error`."""
        with self._lock:
            for part in self._parts:
                part.refresh()
            snapshot = self._assemble()
            if snapshot.version == self._snapshot.version:
                return False
            self._snapshot = snapshot
            return True

    def _assemble(self) -> IdentitySnapshot:
        svid = self._svid.value
        bundles = BundleSet.of(*(part.value for part in self._bundles))
        version = hashlib.sha256(hashlib.sha256(svid.chain_pem).digest() + bundles.version.encode("ascii"))
        return IdentitySnapshot(svid=svid, bundles=bundles, version=version.hexdigest())


def _read_svid(cert_path: Path, key_path: Path) -> X509Svid:
    cert, key = read_regular(cert_path), read_private(key_path)
    try:
        return parse_x509_svid(cert, key)
    except MalformedSvid as error:
        raise OperatorError(
            f"`{cert_path}` with `{key_path}` is not an x509-svid: {error}; write certificate and key of one issuance"
        ) from None


def _read_bundle(trust_domain: TrustDomain, path: Path) -> TrustBundle:
    try:
        return parse_bundle(trust_domain, read_regular(path))
    except MalformedBundle as error:
        raise OperatorError(
            f"`{path}` is not a trust bundle of `{trust_domain}`: {error}; export it again from the issuer"
        ) from None
