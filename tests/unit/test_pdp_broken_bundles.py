"""tests/cases/broken_bundles.yaml: a bundle with a mistake is refused, and the operator is shown where it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import Field

from authz_sidecar.documents import DocumentModel, load_yaml
from authz_sidecar.pdp.compile import BundleRejected, compile_bundle
from authz_sidecar.policy.bundle import BundleFiles
from tests.support.policy_bundle import starter_files

CASES = Path(__file__).parents[1] / "cases" / "broken_bundles.yaml"


class Edit(DocumentModel):
    file: str
    old: str
    new: str


class Write(DocumentModel):
    file: str
    text: str = ""
    hex: str = ""


class Case(DocumentModel):
    name: str
    edit: Edit | None = None
    write: Write | None = None
    remove: list[str] = Field(default_factory=list)
    problems: list[str] = Field(min_length=1)

    def files(self) -> BundleFiles:
        files = dict(starter_files().files)
        if self.edit is not None:
            old = files[self.edit.file].decode()
            assert self.edit.old in old
            files[self.edit.file] = old.replace(self.edit.old, self.edit.new, 1).encode()
        if self.write is not None:
            files[self.write.file] = bytes.fromhex(self.write.hex) or self.write.text.encode()
        for pattern in self.remove:
            kept = {path: raw for path, raw in files.items() if not Path(path).match(pattern)}
            assert len(kept) < len(files)
            files = kept
        return BundleFiles.of(files)


class Cases(DocumentModel):
    cases: list[Case]


@pytest.mark.parametrize("case", load_yaml(CASES.name, CASES.read_bytes(), Cases).cases, ids=lambda case: case.name)
def test_a_broken_bundle_is_refused_with_its_places(case: Case) -> None:
    with pytest.raises(BundleRejected) as caught:
        compile_bundle(case.files())
    assert [str(problem) for problem in caught.value.problems] == case.problems
    # A place, unless the problem is that something is not there.
    assert all(re.match(r"[^:]+(:\d+:\d+)?: ", problem) for problem in case.problems)
