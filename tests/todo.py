"""What a row of the table of TODOs says."""

from __future__ import annotations

from dataclasses import dataclass


class AnswerMissingError(NotImplementedError):
    """The written answer of a TODO is not there; its code may be done."""


@dataclass(frozen=True)
class Todo:
    """One graded task: its number, what it is, its points and the file that tests it."""

    number: str
    title: str
    points: int
    file: str
    prefix: str = "todo"  # of its marker

    @property
    def marker(self) -> str:
        """'todo_1_2' for 1.2, which marks its tests."""
        return f"{self.prefix}_{self.number.replace('.', '_')}"

    @property
    def command(self) -> str:
        """What runs its tests alone."""
        return f"python -m pytest -m {self.marker}"
