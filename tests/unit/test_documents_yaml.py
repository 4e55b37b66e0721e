from __future__ import annotations

from datetime import date
from typing import Literal

import pytest
from pydantic import Field, field_validator

from authz_sidecar.documents import DocumentError, DocumentModel, load_document, load_yaml, nearest


class Part(DocumentModel):
    name: str
    permission: Literal["read", "write"] = "read"


class Whole(DocumentModel):
    parts: list[Part]
    by_name: dict[str, Part] = Field(default_factory=dict)
    enabled: bool = False
    limit: int = 1
    start: date | None = None

    @field_validator("limit")
    @classmethod
    def _positive(cls, value: int) -> int:
        if value < 1:
            raise ValueError("expected at least 1")
        return value


def problems(text: str | bytes) -> list[str]:
    raw = text.encode() if isinstance(text, str) else text
    with pytest.raises(DocumentError) as caught:
        load_yaml("f.yaml", raw, Whole)
    assert caught.value.problems
    return [str(problem) for problem in caught.value.problems]


def test_a_valid_document_becomes_its_model() -> None:
    found = load_yaml("f.yaml", b"parts: [{name: a}]\nby_name:\n  x: {name: 'on'}\nstart: 2026-01-31\n", Whole)
    assert found == Whole(parts=[Part(name="a")], by_name={"x": Part(name="on")}, start=date(2026, 1, 31))


def test_all_problems_come_at_once_in_file_order() -> None:
    text = "parts:\n  - permision: read\n    name: a\n    name: b\n  - name: 7\nlimit: 0\nenabeld: true\n"
    assert problems(text) == [
        "f.yaml:2:5: `parts[0].permision`: unknown key (did you mean `permission`?)",
        "f.yaml:4:5: `parts[0].name`: duplicate key; first given on line 3",
        "f.yaml:5:11: `parts[1].name`: input should be a valid string",
        "f.yaml:6:8: `limit`: expected at least 1",
        "f.yaml:7:1: `enabeld`: unknown key (did you mean `enabled`?)",
    ]


def test_unknown_key_below_a_mapping_of_models_names_the_nearest_key() -> None:
    assert problems("parts: []\nby_name:\n  x: {nam: a, name: b}\n") == [
        "f.yaml:3:7: `by_name.x.nam`: unknown key (did you mean `name`?)"
    ]


def test_missing_key_is_reported_at_the_mapping_that_lacks_it() -> None:
    assert problems("parts:\n  - permission: write\n") == ["f.yaml:2:5: `parts[0].name`: required, but missing"]


def test_literal_message_names_choices_and_value() -> None:
    (problem,) = problems("parts: [{name: a, permission: execute}]")
    assert problem == "f.yaml:1:31: `parts[0].permission`: input should be 'read' or 'write', got `execute`"


@pytest.mark.parametrize("word", ["yes", "no", "on", "Off"])
def test_yaml_1_1_booleans_are_text(word: str) -> None:
    (problem,) = problems(f"parts: []\nenabled: {word}\n")
    assert problem.endswith("input should be a valid boolean; write `true` or `false`")


@pytest.mark.parametrize("word", ["010", "0x10", "1_000", "12:30", "+1", "1e3", "0o17"])
def test_numbers_have_one_spelling(word: str) -> None:
    (problem,) = problems(f"parts: []\nlimit: {word}\n")
    assert problem.startswith("f.yaml:2:8: `limit`: input should be a valid integer")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f.yaml:1:1: the file is empty"),
        ("a: &x 1\nb: *x", "f.yaml:1:4: `a`: an anchor; remove it and write the value out where it is needed"),
        ("a: !!str 1", "f.yaml:1:4: `a`: a tag; write a plain or a quoted value"),
        ("!!python/object/apply:os.system ['true']", "f.yaml:1:1: a tag; write a plain or a quoted value"),
        ("parts: []\n---\nparts: []", "f.yaml:2:1: a second document; keep one document per file"),
        ("? [a]\n: 1", "f.yaml:1:3: a mapping key that is not plain text"),
        ("a: \x07", "f.yaml:1:4: a control character; write it as an escape in double quotes"),
        ('a: "\\ud800"', "f.yaml:1:4: `a`: a lone surrogate; no other program could read it"),
        (b"parts: []\nb: \xff", "f.yaml:2:4: not UTF-8; save the file as UTF-8"),
        ("[" * 40, "f.yaml:1:34: nested deeper than 32"),
        ("a: [1", "f.yaml:1:6: not YAML: while parsing a flow sequence, expected ',' or ']', but got '<stream end>'"),
        ("- a", "f.yaml:1:1: input should be an object"),
    ],
)
def test_yaml_outside_the_subset_is_refused_with_its_place(text: str | bytes, expected: str) -> None:
    assert problems(text)[0] == expected


def test_documents_have_a_size_limit() -> None:
    with pytest.raises(DocumentError, match=r"^f\.yaml: 11 bytes; the limit is 10$"):
        load_yaml("f.yaml", b"parts: []  ", Whole, max_bytes=10)


def test_later_checks_can_point_into_the_document() -> None:
    loaded = load_document("f.yaml", b"parts:\n  - name: a\n", Whole)
    problem = loaded.document.problem(("parts", 0, "permission"), "not granted")
    assert str(problem) == "f.yaml:2:5: `parts[0].permission`: not granted"


def test_nearest_stays_silent_without_a_near_key() -> None:
    assert nearest("zzz", ["name", "permission"]) == ""
