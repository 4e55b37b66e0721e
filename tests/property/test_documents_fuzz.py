"""Whatever the bytes, the reader of documents answers with a model or with a DocumentError, and nothing else."""

from __future__ import annotations

import json

from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, RootModel

from authz_sidecar.documents import DocumentError, DocumentModel, load_yaml, parse_yaml


class Item(DocumentModel):
    name: str
    size: int = Field(default=0, ge=0)


class Doc(DocumentModel):
    items: dict[str, list[Item]]


class Anything(RootModel[object]):
    pass


_pieces = st.sampled_from(
    ["items", "name", "size", ": ", "- ", "\n", "  ", "[", "]", "{", "}", ",", "&a ", "*a", "!t ", "|", ">", "'", '"', "\\", "#",
     "---", "...", "%YAML 1.1", "? ", "\t", "\x00", "\ufeff", "é", "<<", "=", "1", "0x1", "~", "@", "`"]
)  # fmt: skip


@given(st.one_of(st.binary(max_size=200), st.lists(_pieces, max_size=40).map(lambda parts: "".join(parts).encode())))
@example(b"%YAML 3.0\n---\na: 1")
@example(b"'")
@example(b"a: |9\n")
def test_any_bytes_give_a_model_or_a_document_error(raw: bytes) -> None:
    try:
        load_yaml("f.yaml", raw, Doc)
    except DocumentError as error:
        lines = raw.count(b"\n") + raw.count(b"\r") + raw.count("\u2028".encode()) + raw.count("\x85".encode()) + 2
        for problem in error.problems:
            assert 0 <= problem.line <= lines
            assert str(problem).startswith("f.yaml")


_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.text(st.characters(codec="utf-8"), max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc:#- '\"", max_size=4), inner, max_size=3),
    max_leaves=10,
)


@given(_json)
def test_json_is_read_as_json(value: object) -> None:
    assert parse_yaml("f.yaml", json.dumps(value).encode()).value == value
