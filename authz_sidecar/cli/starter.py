"""The policy bundle that `init` starts from: shipped in the wheel, or the checkout's own `policies/`."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from authz_sidecar.cli.failure import Unreachable

# The trust domain that the shipped files are written for.
SHIPPED_TRUST_DOMAIN = "example.org"


def starter_policies(trust_domain: str) -> dict[str, bytes]:
    """The files of the starter bundle by relative path, with SPIFFE IDs in `trust_domain`.

    Raises Unreachable when the installation lacks them.
    """
    source = _source()
    shipped, wanted = f"spiffe://{SHIPPED_TRUST_DOMAIN}/".encode(), f"spiffe://{trust_domain}/".encode()
    found = {path: content.replace(shipped, wanted) for path, content in _walk(source, "")}
    if not found:
        raise Unreachable("the starter policy bundle is missing from this installation; install authz-sidecar again")
    return found


def _source() -> Traversable:
    packaged = files("authz_sidecar") / "starter" / "policies"
    # An editable installation has no packaged copy, and the checkout is beside the package.
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "policies"


def _walk(directory: Traversable, prefix: str) -> Iterator[tuple[str, bytes]]:
    if not directory.is_dir():
        return
    for entry in sorted(directory.iterdir(), key=lambda entry: entry.name):
        if entry.name.startswith((".", "__pycache__")):
            continue
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _walk(entry, f"{path}/")
        else:
            yield path, entry.read_bytes()
