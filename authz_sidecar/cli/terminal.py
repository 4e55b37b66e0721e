"""Text on its way to a terminal. Purposes, resource ids and reasons come from callers and may hold escape sequences."""

from __future__ import annotations

import unicodedata

# Control, format (bidirectional overrides, zero-width), surrogate, unassigned and private characters; line separators.
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp"})


def printable(text: str) -> str:
    r"""`text` on one line, in which every character can be seen.

    Control, format and other invisible characters become the escape a programmer would write (`\x1b`, `\u202e`, `\n`),
    and a backslash becomes two, so that what is shown has one reading. Spaces other than U+0020 are escaped too.

    Not checked: look-alike letters of other scripts.
    """
    if text.isascii() and text.isprintable() and "\\" not in text:
        return text
    return "".join(_shown(character) for character in text)


def _shown(character: str) -> str:
    if character == "\\":
        return "\\\\"
    category = unicodedata.category(character)
    if category in _UNPRINTABLE or (category == "Zs" and character != " "):
        return character.encode("unicode_escape").decode("ascii")
    return character
