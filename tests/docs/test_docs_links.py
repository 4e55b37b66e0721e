"""Links between the pages lead somewhere, and every page can be reached."""

from __future__ import annotations

import re

from tests.support.pages import ROOT, Page, all_pages, page


def targets(shown: Page) -> list[tuple[str, str]]:
    """Relative links of a page: path from the root, and fragment."""
    found = []
    for link in shown.links():
        if re.match(r"[a-z]+:", link):
            continue
        path, _, fragment = link.partition("#")
        resolved = (shown.path.parent / path).resolve() if path else shown.path
        found.append((resolved.relative_to(ROOT).as_posix(), fragment))
    return found


def test_relative_links_lead_to_files_and_headings() -> None:
    checked = 0
    for shown in all_pages():
        for path, fragment in targets(shown):
            assert (ROOT / path).exists(), f"{shown.name}: no {path}"
            if fragment:
                assert fragment in page(path).anchors(), f"{shown.name}: no #{fragment} in {path}"
            checked += 1
    assert checked > 30


def test_every_page_is_reached_from_the_readme() -> None:
    seen, waiting = set[str](), ["README.md"]
    while waiting:
        name = waiting.pop()
        if name in seen or not name.endswith(".md"):
            continue
        seen.add(name)
        waiting += [path for path, _ in targets(page(name))]
    docs = {shown.name for shown in all_pages() if shown.name.startswith("docs/")}
    assert docs - seen == set()


def test_files_of_this_repository_that_pages_name_exist() -> None:
    places = [ROOT, ROOT / "authz_sidecar", ROOT / "policies", ROOT / "examples", ROOT / "deploy"]
    for shown in all_pages():
        for path in re.findall(r"`([\w.-]+(?:/[\w.-]+)+\.(?:py|cedar|yaml|cedarschema|proto|txt|md))`", shown.prose()):
            if path.startswith("dev/"):
                continue  # made by `init`, and by what the page shows
            assert any((place / path).exists() for place in places), f"{shown.name}: no {path}"


def test_the_numbers_of_the_decisions_are_unique_and_listed() -> None:
    files = sorted(path.name for path in (ROOT / "docs" / "adr").glob("[0-9]*.md"))
    numbers = [name[:4] for name in files]
    assert len(set(numbers)) == len(numbers)
    titles = [(ROOT / "docs" / "adr" / name).read_text().partition("\n")[0].removeprefix("# ") for name in files]
    index = page("docs/adr/README.md").text
    for name, title in zip(files, titles, strict=True):
        number, _, said = title.partition(" ")
        assert f"| [{number}]({name}) | {said} |" in index
        body = (ROOT / "docs" / "adr" / name).read_text()
        assert all(f"**{part}.**" in body for part in ("Context", "Decision", "Consequences")), name
