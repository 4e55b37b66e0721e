"""Issuing: signing keys, the claims of a recorded permit, the mint. Verifying is `authz_sidecar.verifier`."""
