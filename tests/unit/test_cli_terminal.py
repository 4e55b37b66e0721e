"""Text from callers cannot move the cursor, hide or fake what a terminal shows."""

from __future__ import annotations

import pytest

from authz_sidecar.cli.terminal import printable


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("plain text 42", "plain text 42"),
        ("Grüße, 東京 ✓", "Grüße, 東京 ✓"),
        ("\x1b[2Jgone", "\\x1b[2Jgone"),
        ("\x9b31mred", "\\x9b31mred"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("bell\x07 del\x7f nul\x00", "bell\\x07 del\\x7f nul\\x00"),
        ("invoice\u202etxt.exe", "invoice\\u202etxt.exe"),
        ("zero\u200bwidth", "zero\\u200bwidth"),
        ("line\u2028separator", "line\\u2028separator"),
        ("no\u00a0break", "no\\xa0break"),
        ("lone\ud800surrogate", "lone\\ud800surrogate"),
        ("\U000e0041 tag", "\\U000e0041 tag"),
    ],
)
def test_what_cannot_be_seen_is_written_as_an_escape(given: str, shown: str) -> None:
    assert printable(given) == shown


def test_an_escape_that_was_typed_is_told_apart_from_one_that_was_neutralised() -> None:
    assert printable("\\x1b") != printable("\x1b")


def test_tables_and_lines_hold_no_escape_sequence_of_a_caller(capsys: pytest.CaptureFixture[str]) -> None:
    from authz_sidecar.cli.screen import OutputFormat, Screen

    screen = Screen(OutputFormat.HUMAN)
    hostile = "\x1b]0;title\x07[bold red]markup[/] :smile:"
    screen.line(hostile)
    screen.fields({"purpose": hostile})
    screen.table(["purpose"], [[hostile], [(hostile, "red")]])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert out.count("[bold red]markup[/] :smile:") == 4


def test_json_holds_only_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    from authz_sidecar.cli.screen import OutputFormat, Screen

    screen = Screen(OutputFormat.JSON)
    screen.document({"purpose": "\x1b\u202eé"})
    screen.json_line({"purpose": "\x1b\u202eé"})
    out = capsys.readouterr().out
    assert out.isascii()
    assert "\x1b" not in out
