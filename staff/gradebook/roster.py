"""`roster.csv`: who is in the course, and which student a name on a download belongs to."""

from __future__ import annotations

import csv
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from toolkit.errors import UserError

COLUMNS = ("id", "name", "email", "team", "section", "lms_id")
NEEDED = ("id", "name")


@dataclass(frozen=True)
class Student:
    """One row. lms_id: what the course's site calls the student (Canvas: user id, Moodle: ID number)."""

    id: str
    name: str
    email: str = ""
    team: str = ""
    section: str = ""
    lms_id: str = ""


class Roster:
    """The students by id, in the order of the file."""

    def __init__(self, students: list[Student]) -> None:
        self.students = students
        self.by_id = {student.id: student for student in students}
        self._teams = {student.team for student in students} - {""}
        self._keys: dict[str, set[str]] = {}
        for student in students:
            for key in _keys_of(student):
                self._keys.setdefault(key, set()).add(student.id)

    def find(self, text: str) -> Student | None:
        """The student whose id, e-mail, LMS id or name a text is; None if there is none, or more than one.

        Capitals, accents, punctuation and the order of two names do not matter. Of 'Ada Lovelace_12' and
        'lovelaceada_345', as Moodle and Canvas name downloads, the name and the number (Canvas's user id) are looked
        up; where they belong to two students it is neither.
        """
        if text in self.by_id:
            return self.by_id[text]
        name, _, number = text.rpartition("_")
        parts = [text, name, number] if name and number.isdigit() else [text]
        found = [self._keys.get(_plain(part), set()) for part in parts]
        alone = set().union(*(ids for ids in found if len(ids) == 1))
        return self.by_id[alone.pop()] if len(alone) == 1 else None

    def team(self, name: str) -> list[Student]:
        """The members of a team; capitals, accents and punctuation do not matter."""
        plain = _plain(name)
        return [student for student in self.students if plain and _plain(student.team) == plain]

    def owners(self, text: str) -> list[Student]:
        """Whose a download is: one student's, or of a team's work every member's; empty if that is not clear.

        Sites name a team's work 'TEAM_NUMBER' (Canvas, Moodle from 4.1) or 'TEAM-NAME_NUMBER' (older Moodle).
        """
        name, _, number = text.rpartition("_")
        name = name if number.isdigit() else text
        members = self.team(name)
        if members:
            return members
        texts = [text, *(text[len(team) + 1 :] for team in self._teams if text.startswith(f"{team}-"))]
        student = next((found for part in texts if (found := self.find(part))), None)
        return [student] if student else []


def _keys_of(student: Student) -> set[str]:
    """What a student may be called by."""
    words = student.name.replace(",", " ").split()
    turned = [" ".join(words[-1:] + words[:-1]), " ".join(words[1:] + words[:1])]
    texts = [student.id, student.email, student.email.partition("@")[0], student.lms_id, student.name, *turned]
    return {_plain(text) for text in texts} - {""}


def _plain(text: str) -> str:
    """Letters and digits alone, without accents and capitals; an e-mail keeps its @."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    return "".join(c for c in letters if c.isalnum() or c == "@" or (unicodedata.category(c) == "Mc"))


def read(path: Path) -> Roster:
    """The roster. UserError: the file, the line, what is wrong and what is allowed."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: a table with the columns {', '.join(COLUMNS)}, one line a student"
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8; save it as 'CSV UTF-8'") from None
    head = text.partition("\n")[0]
    reader = csv.reader(text.splitlines(keepends=True), delimiter=";" if head.count(";") > head.count(",") else ",")
    columns = [_column(name) for name in next(reader, [])]
    unknown = [name for name in columns if name not in COLUMNS]
    missing = [name for name in NEEDED if name not in columns]
    if unknown or missing or len(set(columns)) < len(columns):
        fault = (
            f"unknown column {unknown[0]!r}" if unknown else f"{missing[0]} is missing" if missing else "a column twice"
        )
        raise UserError(f"{path}, line 1: {fault}; allowed: {', '.join(COLUMNS)} ({', '.join(NEEDED)} must be there)")
    students, seen = [], {}
    for cells in reader:
        if any(cell.strip() for cell in cells):
            if len(cells) > len(columns):
                raise UserError(f"{path}, line {reader.line_num}: {len(cells)} cells; allowed: {len(columns)}")
            student = Student(
                **{name: cell.strip() for name, cell in zip(columns, cells + [""] * len(columns), strict=False)}
            )
            _check(student, f"{path}, line {reader.line_num}", seen)
            students.append(student)
    if not students:
        raise UserError(f"{path} holds no student")
    return Roster(students)


def _column(name: str) -> str:
    plain = re.sub(r"[\s-]+", "_", name.strip().lower())
    return "email" if plain == "e_mail" else plain


def _check(student: Student, place: str, seen: dict[tuple[str, str], str]) -> None:
    for key in NEEDED:
        if not getattr(student, key):
            raise UserError(f"{place}: {key} is empty")
    if not student.id.isprintable() or "/" in student.id or student.id.startswith("."):
        raise UserError(f"{place}: id is {student.id!r}; allowed: a text that can name a folder")
    for key in ("id", "email", "lms_id"):
        value = getattr(student, key).casefold()
        if value and (key, value) in seen:
            raise UserError(f"{place}: {key} {getattr(student, key)!r} is also that of {seen[key, value]}")
        seen[key, value] = place.rpartition(", ")[2]
