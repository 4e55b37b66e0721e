"""The files of a bundle and their digest, read from a directory or taken from a record.

The digest is the SHA-256 of what `sha256sum` prints for the sorted files, so that anybody can recompute it:

    find . -type f ! -name '*.md' ! -path '*/.*' -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum

A Kubernetes ConfigMap volume holds links to `..data`, itself a link to the directory of one revision that is swapped
atomically. Resolving `..data` once and reading only below it gives one revision, never half of two.
"""

from __future__ import annotations

import hashlib
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from authz_sidecar.documents import Problem
from authz_sidecar.errors import OperatorError

SCHEMA_FILE = "schema.cedarschema"
CATALOG_FILE = "catalog/tools.yaml"
DATA_FILE = "catalog/data.yaml"

MAX_FILES = 2000
MAX_FILE_BYTES = 1 << 20
MAX_BUNDLE_BYTES = 16 << 20

_ATTEMPTS = 3
_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(?:/[A-Za-z0-9_][A-Za-z0-9._-]*)?")
_KNOWN = (
    re.compile(r"(?:guardrails|rules|invariants)/[^/]+\.cedar"),
    re.compile(r"agents/[^/]+\.yaml(?:\.sig)?"),
    re.compile(r"tests/[^/]+\.(?:json|yaml)"),
)


class BundleRejected(OperatorError):
    """The bundle must not decide anything. `problems` is never empty; each has file, line, column and reason."""

    reason = "BUNDLE_REJECTED"

    def __init__(self, problems: Sequence[Problem]) -> None:
        ordered = sorted(problems, key=lambda p: (p.file, p.line, p.column, p.path, p.message))
        super().__init__("\n".join(map(str, ordered)))
        self.problems = tuple(ordered)


@dataclass(frozen=True, slots=True)
class BundleFiles:
    """The files by path relative to the bundle, `/` between parts, sorted.

    Attributes:
        files: path to content, as read.
        digest: "sha256:" and 64 hex digits over all of them.
    """

    files: Mapping[str, bytes]
    digest: str

    @classmethod
    def of(cls, files: Mapping[str, bytes]) -> BundleFiles:
        """From contents at hand, for example those that a record of activation holds."""
        ordered = {path: files[path] for path in sorted(files, key=str.encode)}
        return cls(MappingProxyType(ordered), digest_of(ordered))


def digest_of(files: Mapping[str, bytes]) -> str:
    """Digest over the files; independent of their order, of times and of modes."""
    listing = b"".join(
        f"{hashlib.sha256(files[path]).hexdigest()}  {path}\n".encode() for path in sorted(files, key=str.encode)
    )
    return "sha256:" + hashlib.sha256(listing).hexdigest()


def read_bundle(directory: Path) -> BundleFiles:
    """Read every file of a bundle.

    Names that start with `.` and `*.md` files are not part of a bundle. Any other name must be one that a bundle can
    have: a misspelt `rules/x.ceder` would otherwise be a policy that silently does not count.

    Raises:
        BundleRejected: no such directory, an unknown name, a link that leaves the directory or leads nowhere, something
            that is not a file, too many or too large files.
    """
    lost = ""
    for _ in range(_ATTEMPTS):
        root = directory / "..data" if (directory / "..data").is_symlink() else directory
        try:
            return _read(root.resolve(strict=True))
        except FileNotFoundError as error:
            # Perhaps the revision was swapped away while it was read: then its successor is there now.
            lost = str(error.filename)
        except (OSError, RuntimeError) as error:
            # Python 3.11 reports a loop of links as RuntimeError.
            raise BundleRejected([Problem(file=str(directory), message=f"cannot be read: {error}")]) from None
    if not directory.is_dir():
        message = "no such directory; `authz-sidecar init` writes a bundle"
        raise BundleRejected([Problem(file=str(directory), message=message)])
    raise BundleRejected([Problem(file=lost, message="listed in the bundle, but a link to nothing or removed")])


def _read(root: Path) -> BundleFiles:
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    total = 0
    for path, found in _walk(root, root, ""):
        if isinstance(found, str):
            problems.append(Problem(file=path, message=found))
        elif path.endswith(".md"):
            continue
        elif not _is_known(path):
            problems.append(Problem(file=path, message="not a file of a bundle; its name or place is not one of them"))
        else:
            with found.open("rb") as stream:
                raw = stream.read(MAX_FILE_BYTES + 1)
            total += len(raw)
            if len(raw) > MAX_FILE_BYTES:
                problems.append(Problem(file=path, message=f"larger than {MAX_FILE_BYTES} bytes"))
            files[path] = raw
        if len(files) > MAX_FILES or total > MAX_BUNDLE_BYTES:
            limit = f"more than {MAX_FILES} files or {MAX_BUNDLE_BYTES} bytes"
            raise BundleRejected([*problems, Problem(file=str(root), message=limit)])
    if problems:
        raise BundleRejected(problems)
    return BundleFiles.of(files)


def _walk(root: Path, directory: Path, prefix: str) -> Iterator[tuple[str, Path | str]]:
    """Paths in order, each with the real file or with what is wrong with it."""
    for entry in sorted(directory.iterdir()):
        if entry.name.startswith("."):
            continue
        path = f"{prefix}{entry.name}"
        real = entry.resolve(strict=True)
        kind = real.stat().st_mode
        if not real.is_relative_to(root):
            yield path, "a link that leaves the bundle; put the file into the directory"
        elif stat.S_ISREG(kind):
            yield path, real
        elif not stat.S_ISDIR(kind):
            yield path, "neither a file nor a directory"
        elif prefix:
            yield path, "a directory inside a directory of the bundle; keep the files flat"
        else:
            yield from _walk(root, real, f"{path}/")


def _is_known(path: str) -> bool:
    if not _PATH.fullmatch(path):
        return False
    return path in (SCHEMA_FILE, CATALOG_FILE, DATA_FILE) or any(known.fullmatch(path) for known in _KNOWN)
