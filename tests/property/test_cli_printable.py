"""`printable` for any text at all."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from authz_sidecar.cli.terminal import printable

any_text = st.text(alphabet=st.characters())


@given(any_text)
def test_every_character_shown_is_printable(text: str) -> None:
    assert printable(text).isprintable()


@given(any_text, any_text)
def test_two_texts_are_never_shown_alike(one: str, other: str) -> None:
    assert (printable(one) == printable(other)) == (one == other)


@given(any_text, any_text)
def test_showing_a_text_does_not_depend_on_its_neighbours(one: str, other: str) -> None:
    assert printable(one + other) == printable(one) + printable(other)
