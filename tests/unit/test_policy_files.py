from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from authz_sidecar.policy import files as policy_files
from authz_sidecar.policy.bundle import BundleFiles, BundleRejected, load_bundle, read_bundle
from tests.support.policy_bundle import STARTER, starter_files


def copy(tmp_path: Path) -> Path:
    return shutil.copytree(STARTER, tmp_path / "bundle")


def refused(directory: Path) -> list[str]:
    with pytest.raises(BundleRejected) as caught:
        read_bundle(directory)
    return [str(problem) for problem in caught.value.problems]


def test_the_digest_is_what_sha256sum_says() -> None:
    listing = (
        "find . -type f ! -name '*.md' ! -path '*/.*' -printf '%P\\n' | LC_ALL=C sort | xargs sha256sum | sha256sum"
    )
    said = subprocess.run(["/bin/sh", "-c", listing], cwd=STARTER, capture_output=True, text=True, check=True).stdout
    assert starter_files().digest == "sha256:" + said.split()[0]


def test_the_digest_covers_names_and_contents_and_no_order() -> None:
    one = BundleFiles.of({"a": b"1", "b": b"2"})
    assert one.digest == BundleFiles.of({"b": b"2", "a": b"1"}).digest
    others = [{"a": b"2", "b": b"1"}, {"a": b"1", "c": b"2"}, {"a": b"1", "b": b"2", "c": b""}, {"a": b"1"}, {}]
    assert len({one.digest, *(BundleFiles.of(other).digest for other in others)}) == 6


def test_notes_and_hidden_files_do_not_count(tmp_path: Path) -> None:
    directory = copy(tmp_path)
    (directory / "README.md").write_text("notes")
    (directory / "rules" / ".crm.cedar.swp").write_text("permit")
    (directory / ".git").mkdir()
    assert read_bundle(directory).digest == starter_files().digest


@pytest.mark.parametrize(
    "name", ["rules/x.ceder", "rule/x.cedar", "x.cedar", "agents/x.yml", "catalog/tool.yaml", "rules/a b.cedar"]
)
def test_a_name_that_no_bundle_has_is_refused(tmp_path: Path, name: str) -> None:
    directory = copy(tmp_path)
    (directory / name).parent.mkdir(exist_ok=True)
    (directory / name).write_text("")
    assert refused(directory) == [f"{name}: not a file of a bundle; its name or place is not one of them"]


def config_map(tmp_path: Path) -> tuple[Path, Path]:
    """A bundle as Kubernetes mounts it: links to ..data, itself a link to the directory of one revision."""
    volume = tmp_path / "volume"
    shutil.copytree(STARTER, volume / "..2027_01")
    (volume / "..data").symlink_to("..2027_01")
    for entry in STARTER.iterdir():
        (volume / entry.name).symlink_to(f"..data/{entry.name}")
    return volume, volume / "..2027_01"


def test_a_config_map_volume_is_read_as_one_revision(tmp_path: Path) -> None:
    volume, _ = config_map(tmp_path)
    assert read_bundle(volume).digest == starter_files().digest


def test_a_config_map_swap_is_followed_whole(tmp_path: Path) -> None:
    volume, old = config_map(tmp_path)
    new = volume / "..2027_02"
    shutil.copytree(STARTER, new)
    (new / "rules" / "crm.cedar").unlink()
    (volume / "..data_tmp").symlink_to("..2027_02")
    (volume / "..data_tmp").rename(volume / "..data")
    # Kubelet removes links to what the new revision lacks only after the swap, and the old revision after that.
    (volume / "invariants").symlink_to("..data/invariants")
    shutil.rmtree(old)
    assert read_bundle(volume).files.keys() == starter_files().files.keys() - {"rules/crm.cedar"}


def test_links_inside_the_bundle_are_followed(tmp_path: Path) -> None:
    directory = copy(tmp_path)
    (directory / "rules" / "crm.cedar").rename(directory / "rules" / ".real")
    (directory / "rules" / "crm.cedar").symlink_to(".real")
    assert read_bundle(directory).digest == starter_files().digest


def test_a_link_out_of_the_bundle_is_refused(tmp_path: Path) -> None:
    directory = copy(tmp_path)
    outside = tmp_path / "outside.cedar"
    outside.write_text("")
    (directory / "rules" / "x.cedar").symlink_to(outside)
    assert refused(directory) == ["rules/x.cedar: a link that leaves the bundle; put the file into the directory"]


def test_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    directory = copy(tmp_path)
    (directory / "rules" / "x.cedar").symlink_to("y.cedar")
    (problem,) = refused(directory)
    assert problem.endswith("y.cedar: listed in the bundle, but a link to nothing or removed")


def test_a_loop_of_links_is_refused(tmp_path: Path) -> None:
    directory = copy(tmp_path)
    (directory / "rules" / "x.cedar").symlink_to("x.cedar")
    (problem,) = refused(directory)
    assert "cannot be read" in problem


def test_links_to_a_directory_above_end(tmp_path: Path) -> None:
    directory = copy(tmp_path)
    (directory / "rules" / "up").symlink_to("..")
    assert refused(directory) == ["rules/up: a directory inside a directory of the bundle; keep the files flat"]


def test_something_that_is_not_a_file_is_refused(tmp_path: Path) -> None:
    directory = copy(tmp_path)
    os.mkfifo(directory / "rules" / "x.cedar")
    assert refused(directory) == ["rules/x.cedar: neither a file nor a directory"]


def test_a_missing_directory_is_refused_with_the_remedy(tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == [
        f"{tmp_path / 'none'}: no such directory; `authz-sidecar init` writes a bundle"
    ]


def test_sizes_are_bounded(tmp_path: Path) -> None:
    directory = copy(tmp_path)
    big = directory / "rules" / "x.cedar"
    # Sparse: the limit must hold before the content is in memory.
    with big.open("wb") as stream:
        stream.truncate(1 << 34)
    assert refused(directory) == [f"rules/x.cedar: larger than {policy_files.MAX_FILE_BYTES} bytes"]


def test_the_number_of_files_is_bounded(tmp_path: Path) -> None:
    directory = copy(tmp_path)
    for index in range(policy_files.MAX_FILES):
        (directory / "rules" / f"x{index}.cedar").touch()
    (problem,) = refused(directory)
    assert "more than 2000 files" in problem


def test_a_bundle_comes_back_from_its_recorded_files() -> None:
    recorded = {path: raw.decode() for path, raw in starter_files().files.items()}
    again = BundleFiles.of({path: text.encode() for path, text in reversed(recorded.items())})
    assert load_bundle(again).digest == starter_files().digest
