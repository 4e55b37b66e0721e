from __future__ import annotations

import os
from pathlib import Path

import pytest

from authz_sidecar.files import create_exclusive, write_private, write_public


@pytest.fixture(params=[0o000, 0o077, 0o022])
def any_umask(request: pytest.FixtureRequest):
    previous = os.umask(request.param)
    yield
    os.umask(previous)


def mode_of(path: Path) -> int:
    return path.stat().st_mode & 0o7777


@pytest.mark.usefixtures("any_umask")
def test_modes_do_not_depend_on_the_umask(tmp_path: Path) -> None:
    write_private(tmp_path / "key", b"k")
    write_public(tmp_path / "bundle", b"b")
    create_exclusive(tmp_path / "new-key", b"k")
    create_exclusive(tmp_path / "new-bundle", b"b", public=True)

    assert [mode_of(tmp_path / name) for name in ("key", "bundle", "new-key", "new-bundle")] == [
        0o600,
        0o644,
        0o600,
        0o644,
    ]


def test_private_write_takes_the_mode_of_a_formerly_public_file_away(tmp_path: Path) -> None:
    path = tmp_path / "key"
    write_public(path, b"old")

    write_private(path, b"new")

    assert (path.read_bytes(), mode_of(path)) == (b"new", 0o600)


def test_open_reader_keeps_the_whole_old_content_during_a_replace(tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    write_public(path, b"old content")

    with path.open("rb") as reader:
        write_public(path, b"new")
        assert reader.read() == b"old content"
    assert path.read_bytes() == b"new"


def test_symbolic_link_is_replaced_and_its_target_untouched(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"victim")
    link = tmp_path / "link"
    link.symlink_to(target)

    write_private(link, b"secret")

    assert target.read_bytes() == b"victim"
    assert not link.is_symlink()


def test_create_exclusive_refuses_an_existing_file_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "key"
    create_exclusive(path, b"first")

    with pytest.raises(FileExistsError):
        create_exclusive(path, b"second")

    assert path.read_bytes() == b"first"
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


def test_create_exclusive_refuses_a_dangling_link(tmp_path: Path) -> None:
    link = tmp_path / "key"
    link.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(FileExistsError):
        create_exclusive(link, b"secret")

    assert not (tmp_path / "elsewhere").exists()


def test_failed_write_leaves_the_old_file_and_no_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    write_private(path, b"old")

    def no_space(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space left"):
        write_private(path, b"new")
    with pytest.raises(OSError, match="No space left"):
        create_exclusive(tmp_path / "other", b"new")

    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["key"]


@pytest.mark.parametrize("write", [write_private, write_public, create_exclusive])
def test_content_is_synced_before_it_gets_its_name_and_the_name_after(write, tmp_path, monkeypatch) -> None:
    path = tmp_path / "key"
    synced: list[tuple[str, bool]] = []
    real_fsync = os.fsync

    def recording_fsync(descriptor: int) -> None:
        kind = "directory" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "file"
        synced.append((kind, path.exists()))
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    write(path, b"content")

    assert synced == [("file", False), ("directory", True)]
