"""One thing that was proved, or not."""

from __future__ import annotations

from dataclasses import dataclass, field

SHOWN = 12  # problems of one kind; a stub that is missing makes dozens


@dataclass
class Proof:
    """A claim with its counts, and everything that contradicts it."""

    name: str
    what: str
    problems: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        if not self.problems:
            return f"ok    {self.name}: {self.what}"
        problems = list(dict.fromkeys(self.problems))
        lines = [f"FAIL  {self.name}: {len(problems)} problem{'s' if len(problems) > 1 else ''}"]
        lines += [f"      {problem}" for problem in problems[:SHOWN]]
        if len(problems) > SHOWN:
            lines.append(f"      and {len(problems) - SHOWN} more")
        return "\n".join(lines)
