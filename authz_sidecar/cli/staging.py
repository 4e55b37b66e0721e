"""Directories that appear complete or not at all, and a look at what is already there."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from authz_sidecar.files import create_exclusive


@contextmanager
def staged_directory(path: Path) -> Iterator[Path]:
    """A new directory (0700) to fill, which gets its name `path` when the block ends well.

    Left-overs of a crash start with `.tmp-`. Raises OSError when something that is not an empty directory is at `path`.
    """
    temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=path.parent))
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def create_public_tree(path: Path, files: Mapping[str, bytes]) -> None:
    """A directory with these files by relative path, readable by everyone."""
    with staged_directory(path) as staged:
        staged.chmod(0o755)
        for name, content in files.items():
            (staged / name).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            create_exclusive(staged / name, content, public=True)


def content_of(path: Path) -> bytes | None:
    """The bytes of a regular file; None for anything else."""
    return path.read_bytes() if path.is_file() else None


def tree_of(directory: Path) -> dict[str, bytes]:
    """All files below a directory by relative path; empty when it is not a directory."""
    files = (path for path in directory.rglob("*") if not path.is_dir())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}
