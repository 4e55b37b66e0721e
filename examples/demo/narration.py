"""What the demonstration prints, and what it holds to be true.

A claim is an assertion with a sentence: it is printed with its outcome as it is made, and one that does not hold makes
the whole demonstration fail. Nothing is printed as shown that was not checked.
"""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape


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
        self._console.print(f"\n[bold]{self._steps}. {escape(title)}[/bold]")
        if explanation:
            self.say(explanation)

    def say(self, text: str) -> None:
        self._console.print(f"   [dim]{escape(text)}[/dim]")

    def show(self, output: str) -> None:
        """Print another program's output as it is, indented."""
        for line in output.rstrip().splitlines():
            self._console.print(f"   │ {line}", markup=False, highlight=False, overflow="ignore", crop=False)

    def claim(self, sentence: str, holds: bool, *, seen: str) -> None:
        """State something and whether it holds. `seen` is the evidence, printed either way."""
        self._claims.append(Claim(sentence, holds, seen))
        mark = "[green]✓[/green]" if holds else "[red bold]✗[/red bold]"
        self._console.print(f"   {mark} {escape(sentence)}")
        self._console.print(f"     [dim]{escape(seen)}[/dim]")

    @property
    def claims(self) -> tuple[Claim, ...]:
        return tuple(self._claims)

    @property
    def failed(self) -> tuple[Claim, ...]:
        return tuple(claim for claim in self._claims if not claim.holds)
