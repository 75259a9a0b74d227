"""Reading the corpus: one `.attack` file a submission, laid over an unfilled starter.

The first line says what it tries. `tags: system` marks attacks on the machine and not on the checks, `quiet` those that
try and leave the process as it was, so that several of them fit in one submission (`together`). Then come sections,
each with a head `--- NAME [HOW]`: `+` appends to the starter's file (`all` stands for the four graded modules),
`base64` gives the file's bytes, `-> PATH` makes a symbolic link, and no HOW gives the file's text. Words in braces are
filled in with what an attacker may well know: {ROOT}, {OUT}, {GRADER} (its process id), {PORT}, {MARK}.
"""

from __future__ import annotations

import base64
import shutil
from dataclasses import dataclass, field
from pathlib import Path

FOLDER = Path(__file__).parent / "corpus"
MODULES = ("classification_models.py", "classification_train.py", "segmentation_models.py", "segmentation_train.py")


@dataclass
class Attack:
    """One hostile submission."""

    name: str
    tries: str
    tags: list[str] = field(default_factory=list)
    sections: list[tuple[str, str, str]] = field(default_factory=list)  # file, how, text

    def write(self, folder: Path, starter: Path, words: dict[str, object]) -> None:
        """Write the submission to a new folder."""
        folder.mkdir()
        for name in MODULES:
            shutil.copy(starter / name, folder / name)
        for head, how, text in self.sections:
            for word, value in words.items():
                text, how = text.replace(f"{{{word}}}", str(value)), how.replace(f"{{{word}}}", str(value))
            for name in MODULES if head == "all" else [head]:
                self._write_one(folder / name, how, text)

    @staticmethod
    def _write_one(path: Path, how: str, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if how == "+":
            path.write_text(f"{path.read_text()}\n{text}\n")
        elif how == "base64":
            path.write_bytes(base64.b64decode(text))
        elif how.startswith("-> "):
            path.unlink(missing_ok=True)
            path.symlink_to(how[3:])
        else:
            path.write_text(text + "\n")


def together(attacks: list[Attack]) -> Attack:
    """One submission that makes all of these attacks, each whatever became of those before it."""
    made = Attack("together", f"Makes {len(attacks)} quiet attacks: {', '.join(attack.name for attack in attacks)}.")
    for attack in attacks:
        for name, how, text in attack.sections:
            if how != "+":
                raise ValueError(f"{attack.name} replaces {name}, so it is not quiet")
            made.sections.append((name, how, f"try: exec({text!r}, globals())\nexcept BaseException: pass"))
    return made


def read_corpus() -> list[Attack]:
    """All attacks by name."""
    return [_read(path) for path in sorted(FOLDER.glob("*.attack"))]


def _read(path: Path) -> Attack:
    head, *sections = path.read_text(encoding="utf-8").split("\n--- ")
    tries, *rest = head.splitlines()
    tags = [tag for line in rest if line.startswith("tags:") for tag in line[5:].split()]
    attack = Attack(path.stem, tries, tags)
    for section in sections:
        title, _, text = section.partition("\n")
        name, _, how = title.partition(" ")
        attack.sections.append((name, how, text.rstrip("\n")))
    return attack
