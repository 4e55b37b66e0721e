from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from authz_sidecar.errors import OperatorError
from authz_sidecar.files import write_private, write_public
from authz_sidecar.identity.source import FileIdentitySource
from authz_sidecar.identity.spiffe_id import TrustDomain
from authz_sidecar.identity.watched import Watched
from tests.support.identity import Authority, Leaf, jwks, pem, x509_jwk

OURS, PARTNER = TrustDomain("example.org"), TrustDomain("partner.test")
SIDECAR = "spiffe://example.org/authz-sidecar"
ROOT = Authority.root()


@dataclass(frozen=True)
class Files:
    directory: Path

    @property
    def paths(self) -> dict[str, Path | dict[TrustDomain, Path]]:
        bundles = {OURS: self.directory / "bundle.json", PARTNER: self.directory / "partner.pem"}
        return {
            "svid_cert": self.directory / "svid.pem",
            "svid_key": self.directory / "svid-key.pem",
            "bundles": bundles,
        }

    def write_svid(self, leaf: Leaf) -> None:
        write_public(self.directory / "svid.pem", leaf.chain_pem)
        write_private(self.directory / "svid-key.pem", leaf.key_pem)

    def write_bundle(self, *authorities: Authority) -> None:
        write_public(self.directory / "bundle.json", jwks(*map(x509_jwk, authorities)))

    def write_partner(self, authority: Authority) -> None:
        write_public(self.directory / "partner.pem", pem(authority.certificate))

    def source(self) -> FileIdentitySource:
        return FileIdentitySource(**self.paths)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path)
    files.write_svid(ROOT.leaf(SIDECAR))
    files.write_bundle(ROOT)
    files.write_partner(Authority.root("partner.test"))
    return files


def test_first_snapshot_holds_svid_and_every_bundle(files: Files) -> None:
    source = files.source()
    snapshot = source.current()
    assert str(snapshot.svid.spiffe_id) == SIDECAR
    assert set(snapshot.bundles.bundles) == {OURS, PARTNER}
    assert source.last_error is None


def test_unchanged_files_give_no_new_snapshot(files: Files) -> None:
    source = files.source()
    before = source.current()
    assert not source.refresh()
    # Rewritten with the same content: a new inode, but nothing new to use.
    files.write_bundle(ROOT)
    assert not source.refresh()
    assert source.current() is before


def test_rotated_svid_is_taken_over(files: Files) -> None:
    source = files.source()
    before = source.current()
    rotated = ROOT.leaf(SIDECAR)
    files.write_svid(rotated)

    assert source.refresh()
    assert source.current().svid.leaf == rotated.certificate
    assert source.current().version != before.version
    assert not source.refresh()


def test_removed_authority_takes_effect_on_the_next_refresh(files: Files) -> None:
    new_root = Authority.root()
    files.write_bundle(ROOT, new_root)
    source = files.source()
    files.write_bundle(new_root)

    assert source.refresh()
    bundle = source.current().bundles.get(OURS)
    assert bundle is not None
    assert bundle.x509_authorities == (new_root.certificate,)


def test_rewriting_a_file_in_place_is_noticed(files: Files) -> None:
    source = files.source()
    (files.directory / "bundle.json").write_bytes(b'{"keys": []}')
    assert source.refresh()
    bundle = source.current().bundles.get(OURS)
    assert bundle is not None
    assert not bundle.x509_authorities


@pytest.mark.parametrize("broken", ["svid.pem", "svid-key.pem", "bundle.json", "partner.pem"])
@pytest.mark.parametrize("how", ["garbage", "missing", "directory"])
def test_broken_file_keeps_the_last_good_value_and_says_which_file(files: Files, broken: str, how: str) -> None:
    source = files.source()
    before = source.current()
    path = files.directory / broken
    good = path.read_bytes()
    path.unlink()
    if how == "garbage":
        write_private(path, b"garbage")
    if how == "directory":
        path.mkdir()

    assert not source.refresh()
    assert source.current() is before
    assert source.last_error is not None
    assert str(path) in source.last_error

    if how == "directory":
        path.rmdir()
    write_private(path, good)
    assert not source.refresh()
    assert source.last_error is None


def test_files_that_come_back_unchanged_are_good_again(files: Files) -> None:
    source = files.source()
    elsewhere = files.directory.with_name("unmounted")
    files.directory.rename(elsewhere)
    source.refresh()
    assert "can not read" in (source.last_error or "")

    elsewhere.rename(files.directory)

    source.refresh()
    assert source.last_error is None


def test_broken_svid_does_not_keep_a_removed_authority_trusted(files: Files) -> None:
    source = files.source()
    svid = source.current().svid
    write_public(files.directory / "svid.pem", b"garbage")
    files.write_bundle(Authority.root())

    assert source.refresh()
    bundle = source.current().bundles.get(OURS)
    assert bundle is not None
    assert ROOT.certificate not in bundle.x509_authorities
    assert source.current().svid is svid
    assert "svid.pem" in (source.last_error or "")


def test_certificate_without_its_key_is_kept_out_until_the_key_arrives(files: Files) -> None:
    source = files.source()
    before = source.current()
    rotated = ROOT.leaf(SIDECAR)
    write_public(files.directory / "svid.pem", rotated.chain_pem)

    assert not source.refresh()
    assert source.current() is before
    assert "belongs to another certificate" in (source.last_error or "")

    write_private(files.directory / "svid-key.pem", rotated.key_pem)
    assert source.refresh()
    assert source.current().svid.leaf == rotated.certificate
    assert source.last_error is None


def test_kubernetes_style_swap_of_a_directory_link_is_noticed(files: Files, tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()

    def publish(generation: str, leaf: Leaf, *authorities: Authority) -> None:
        directory = mount / generation
        directory.mkdir()
        written = Files(directory)
        written.write_svid(leaf)
        written.write_bundle(*authorities)
        written.write_partner(ROOT)
        link = mount / "..data_tmp"
        link.symlink_to(generation)
        link.replace(mount / "..data")

    first, second = ROOT.leaf(SIDECAR), ROOT.leaf(SIDECAR)
    publish("..2026_01", first, ROOT)
    for name in ("svid.pem", "svid-key.pem", "bundle.json", "partner.pem"):
        (mount / name).symlink_to(f"..data/{name}")
    source = Files(mount).source()
    assert source.current().svid.leaf == first.certificate

    publish("..2026_02", second, ROOT, Authority.root())

    assert source.refresh()
    snapshot = source.current()
    bundle = snapshot.bundles.get(OURS)
    assert bundle is not None
    assert (snapshot.svid.leaf, len(bundle.x509_authorities)) == (second.certificate, 2)


@pytest.mark.parametrize("broken", ["svid.pem", "svid-key.pem", "bundle.json"])
def test_start_refuses_a_broken_file_naming_it(files: Files, broken: str) -> None:
    path = files.directory / broken
    write_private(path, b"garbage")
    with pytest.raises(OperatorError, match=str(path)):
        files.source()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660])
def test_key_that_others_can_read_is_refused(files: Files, mode: int) -> None:
    (files.directory / "svid-key.pem").chmod(mode)
    with pytest.raises(OperatorError, match=rf"svid-key.pem` has mode {mode:04o}.*chmod 0600"):
        files.source()


def test_key_opened_to_others_later_is_reported(files: Files) -> None:
    source = files.source()
    (files.directory / "svid-key.pem").chmod(0o644)
    source.refresh()
    assert "has mode 0644" in (source.last_error or "")


@pytest.mark.parametrize(
    ("owner", "mode", "message"),
    [
        pytest.param("root", 0o440, None, id="root-group-readable"),
        pytest.param("root", 0o640, None, id="root-group-readable-root-writable"),
        pytest.param("root", 0o660, "mode 0660", id="root-group-writable"),
        pytest.param("root", 0o444, "mode 0444", id="root-world-readable"),
        pytest.param("somebody", 0o640, "belongs to uid", id="somebody-elses"),
    ],
)
def test_key_of_another_owner_is_accepted_only_as_a_mounted_secret(
    files: Files, monkeypatch: pytest.MonkeyPatch, owner: str, mode: int, message: str | None
) -> None:
    (files.directory / "svid-key.pem").chmod(mode)
    uid = 0 if owner == "root" else 54321
    real_fstat = os.fstat

    def fstat(descriptor: int) -> os.stat_result:
        fields = list(real_fstat(descriptor))
        fields[4] = uid
        return os.stat_result(fields)

    monkeypatch.setattr(os, "fstat", fstat)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    if message is None:
        assert str(files.source().current().svid.spiffe_id) == SIDECAR
    else:
        with pytest.raises(OperatorError, match=message):
            files.source()


def test_named_pipe_in_place_of_a_file_is_refused_and_does_not_block(files: Files) -> None:
    path = files.directory / "bundle.json"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OperatorError, match="not a regular file"):
        files.source()


def test_file_without_end_is_refused(files: Files) -> None:
    write_public(files.directory / "partner.pem", b" " * ((1 << 20) + 1))
    with pytest.raises(OperatorError, match=r"partner.pem` is longer than 1048576 bytes"):
        files.source()


def test_files_replaced_while_they_are_read_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("half")

    def read() -> str:
        text = path.read_text()
        if text == "half":
            write_public(path, b"whole")
            raise OperatorError("torn")
        return text

    assert Watched((path,), read).value == "whole"


def test_files_that_never_stand_still_are_reported_and_not_used(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("0")

    def read() -> str:
        text = path.read_text()
        write_public(path, text.encode() + b"0")
        return text

    with pytest.raises(OperatorError, match="keeps changing"):
        Watched((path,), read)


def test_reader_on_another_thread_sees_only_whole_snapshots(files: Files) -> None:
    source = files.source()
    stop, mixed = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            snapshot = source.current()
            bundle = snapshot.bundles.get(OURS)
            if bundle is None or snapshot.svid.leaf.issuer != bundle.x509_authorities[0].subject:
                mixed.append(snapshot)

    reader = threading.Thread(target=watch)
    reader.start()
    try:
        for _ in range(5):
            root = Authority.root()
            files.write_svid(root.leaf(SIDECAR))
            files.write_bundle(root)
            assert source.refresh()
    finally:
        stop.set()
        reader.join()
    assert not mixed
