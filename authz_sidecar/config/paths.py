"""Every path of the configuration, looked at once before anything starts.

Not checked: what is in the files, and whether they stay. Their readers check that again when they use them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from authz_sidecar.config.rules import Finding
from authz_sidecar.config.tree import Tree
from authz_sidecar.config.values import UnixAddress
from authz_sidecar.documents import KeyPath


def unusable_paths(config: Tree) -> Iterator[Finding]:
    """Where, what is wrong with the path, and the remedy."""
    yield from _check(("identity", "svid", "certificate"), config.identity.svid.certificate, _readable_file)
    # Who may read this key depends on who mounts it; the identity source knows, and refuses it.
    yield from _check(("identity", "svid", "private_key"), config.identity.svid.private_key, _readable_file)
    for domain, path in config.identity.bundles.items():
        yield from _check(("identity", "bundles", str(domain)), path, _readable_file)
    for index, listener in enumerate(config.listeners):
        if isinstance(listener.address, UnixAddress):
            yield from _check(("listeners", index, "address"), listener.address.path, _socket)
    yield from _check(("policy", "directory"), config.policy.directory, _readable_directory)
    yield from _check(("ledger", "directory"), config.ledger.directory, _writable_directory)
    yield from _check(("ledger", "checkpoint_key"), config.ledger.checkpoint_key, _private_file)
    yield from _check(("token", "signing_key"), config.token.signing_key, _private_file)
    if config.token.published_keys is not None:
        yield from _check(("token", "published_keys"), config.token.published_keys, _readable_directory)


def _check(key: KeyPath, path: Path, check: Callable[[Path], str | None]) -> Iterator[Finding]:
    try:
        wrong = check(path)
    except OSError as error:
        # Above all a directory on the way that we may not enter.
        wrong = f"{error.strerror}; make its directories accessible to this user" if error.strerror else str(error)
    if wrong is not None:
        yield key, f"{path}: {wrong}"


def _readable_file(path: Path) -> str | None:
    if not path.exists():
        return "no such file; create it, or correct the path (relative ones start at the configuration file)"
    if not path.is_file():
        return "not a regular file"
    if not os.access(path, os.R_OK):
        return f"not readable by uid {os.geteuid()}"
    return None


def _private_file(path: Path) -> str | None:
    wrong = _readable_file(path)
    if wrong is not None:
        return wrong
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o077:
        return f"a private key that others can read (mode {mode:04o}); chmod 600"
    return None


def _readable_directory(path: Path) -> str | None:
    if not path.exists():
        return "no such directory; create it, or correct the path (relative ones start at the configuration file)"
    if not path.is_dir():
        return "not a directory"
    if not os.access(path, os.R_OK | os.X_OK):
        return f"not readable by uid {os.geteuid()}"
    return None


def _writable_directory(path: Path) -> str | None:
    """A directory, or one that can be made: its nearest existing ancestor counts."""
    existing = path
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        return f"{existing} is not a directory" if existing != path else "not a directory"
    if not os.access(existing, os.W_OK | os.X_OK):
        return f"{existing} is not writable by uid {os.geteuid()}"
    return None


def _socket(path: Path) -> str | None:
    if path.exists() and not path.is_socket():
        return "exists and is not a socket; remove it or choose another path"
    # The start makes the socket's own directory (0750), as in a volume that is open to others; nothing above it.
    directory = path.parent if path.parent.exists() else path.parent.parent
    if not directory.is_dir():
        return f"no directory {path.parent}; create it, owned by this user with mode 0700 or 0750"
    if not os.access(directory, os.W_OK | os.X_OK):
        return f"{directory} is not writable by uid {os.geteuid()}; a socket is made there"
    return None
