"""What the demonstration prints, and what it holds to be true.

A claim is an assertion with a sentence: it is printed with its outcome as it is made, and one that does not hold makes
the whole demonstration fail. Nothing is printed as shown that was not checked.
"""

from __future__ import annotations

import sys
import textwrap
from dataclasses import dataclass

from rich.console import Console


@dataclass(frozen=True, slots=True)
class Claim:
    sentence: str
    holds: bool
    seen: str


class Narration:
    """Prints steps and claims, and remembers which claims did not hold."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._claims: list[Claim] = []
        self._steps = 0

    def step(self, title: str, explanation: str = "") -> None:
        self._steps += 1
        self._print("")
        self._print(f"{self._steps}. {title}", style="bold")
        if explanation:
            self.say(explanation)

    def say(self, text: str) -> None:
        self._print(text, indent=3, style="dim")

    def show(self, output: str) -> None:
        """Print another program's output as it is, indented."""
        for line in output.rstrip().splitlines():
            self._console.print(f"   │ {line}", markup=False, overflow="ignore", crop=False)

    def claim(self, sentence: str, holds: bool, *, seen: str) -> None:
        """State something and whether it holds. `seen` is the evidence, printed either way."""
        self._claims.append(Claim(sentence, holds, seen))
        self._print(f"{'✓' if holds else '✗'} {sentence}", indent=3, style="green" if holds else "bold red")
        self._print(seen, indent=5, style="dim")

    def end(self, seconds: float) -> None:
        """Print how many claims held."""
        held = len(self._claims) - len(self.failed)
        self._print("")
        self._print(f"{held} of {len(self._claims)} claims held, in {seconds:.1f} s", style="bold")

    @property
    def failed(self) -> tuple[Claim, ...]:
        return tuple(claim for claim in self._claims if not claim.holds)

    def _print(self, text: str, *, indent: int = 0, style: str = "") -> None:
        """One paragraph: wrapped for a reader, one line for a program."""
        room = max(40, self._console.width - indent) if self._console.is_terminal else sys.maxsize
        for line in textwrap.wrap(text, room) or [""]:
            self._console.print(" " * indent + line, style=style, markup=False, soft_wrap=True)
